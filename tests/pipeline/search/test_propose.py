"""NSGA-II as it is asked: the same answers to the same figures, and never a point twice."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.prune.allocate import Snapping
from pipeline.search.front import Costs, hypervolume
from pipeline.search.propose import Proposal, Proposer
from pipeline.search.space import Space, search_space, uniform_points
from tests.pipeline.search.parts import made_up


def _space(*widths: int) -> Space:
    return search_space(made_up(*widths), Snapping(channel_step=1), 0.01)


def _costs(proposal: Proposal) -> Costs:
    """Error and cost of a made-up network whose first groups matter least."""
    error = sum((rank + 1) / (index + 1) for rank, index in enumerate(proposal.point))
    return error, float(sum(proposal.point))


def _run(space: Space, trials: int, seed: int, population: int = 8) -> list[Proposal]:
    proposer = Proposer(space, 2, population, seed, uniform_points(space, population // 2, 0.01))
    done: list[Proposal] = []
    while len(done) < trials:
        asked = proposer.ask(min(population, trials - len(done)))
        if not asked:
            break
        proposer.tell([_costs(item) for item in asked])
        done += asked
    return done


def test_equal_seeds_give_equal_studies_and_others_do_not() -> None:
    space = _space(16, 16, 16)
    one, same, other = (_run(space, 40, seed) for seed in (3, 3, 4))
    assert one == same
    assert one != other


def test_a_longer_study_begins_like_a_shorter_one() -> None:
    space = _space(16, 16, 16)
    assert _run(space, 40, 0)[:21] == _run(space, 21, 0)


def test_the_first_generation_is_uniform_and_random_and_the_rest_is_bred() -> None:
    done = _run(_space(64, 64, 64, 64), 32, 0)
    assert [item.origin for item in done[:8]] == ["uniform"] * 4 + ["random"] * 4
    assert {item.origin for item in done[8:]} == {"genetic"}
    assert done[0].point == (63, 63, 63, 63)
    assert done[3].point == (0, 0, 0, 0)


def test_no_point_comes_twice_and_a_small_space_is_searched_whole() -> None:
    space = _space(4, 4)
    done = _run(space, 100, 0, population=6)
    assert len({item.point for item in done}) == len(done) == space.size == 16


def test_it_finds_more_than_chance() -> None:
    """On a made-up problem with an easy structure; what it finds on networks is a benchmark's question."""
    space = _space(*[24] * 6)
    reference = (150.0, 150.0)
    gains = []
    for seed in range(5):
        bred = [_costs(item) for item in _run(space, 160, seed, population=16)]
        rng = np.random.default_rng(seed)
        drawn = [Proposal(tuple(int(i) for i in rng.integers(24, size=6)), "random") for _ in range(160)]
        gains.append(hypervolume(bred, reference) - hypervolume([_costs(item) for item in drawn], reference))
    assert min(gains) > 0


def test_optuna_stays_as_talkative_as_it_was() -> None:
    import optuna

    before = optuna.logging.get_verbosity()
    _run(_space(4, 4), 8, 0)
    assert optuna.logging.get_verbosity() == before


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from devices.errors import RecipeError

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RecipeError, match=r"Optuna, which is not installed.*\.\[search\]"):
        _run(_space(4, 4), 8, 0)
