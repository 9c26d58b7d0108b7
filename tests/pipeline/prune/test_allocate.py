"""How many units each group keeps: the target holds, widths are on the device's steps, a bad target is explained."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from devices.errors import RecipeError
from pipeline.prune.allocate import Ranked, Snapping, allocate_to, snap_choices
from pipeline.prune.budget import Budget
from pipeline.prune.groups import Group, Slice, Unit

WIDTHS = st.lists(st.integers(2, 40), min_size=1, max_size=5)
SCOPES = ("global", "local", "allocated", "sensitivity")
Macs = Callable[[Iterable[Unit]], float]


def allocate(ranked: Sequence[Ranked], scope: str, target: float, step: int, fewest: int, macs: Macs) -> list[Unit]:
    """Allocation to a share of the multiply-accumulates."""
    dense = macs([])
    budget = Budget(
        key="prune.target_macs", unit="MACs", dense=dense, limit=target * dense + 1e-6, cost=macs, share=target
    )
    snapping = Snapping(channel_step=step, min_channels=fewest)
    return allocate_to(ranked, scope, budget, snapping, partial(lost_score, ranked))


def lost_score(ranked: Sequence[Ranked], removed: Iterable[Unit]) -> float:
    """The score of what goes, as a damage."""
    gone = {unit.label for unit in removed}
    pairs = (pair for item in ranked for pair in zip(item.group.units, item.scores.tolist(), strict=True))
    return sum(score for unit, score in pairs if unit.label in gone)


def chain(widths: Sequence[int], seed: int = 0) -> list[Ranked]:
    """Groups of a chain of layers, with random scores."""
    rng = np.random.default_rng(seed)
    ranked, label = [], 0
    for number, width in enumerate(widths):
        units = tuple(Unit(label + index, (Slice(f"{number}", 0, index),)) for index in range(width))
        ranked.append(Ranked(Group(f"{number}", units), rng.random(width) + 0.1))
        label += width
    return ranked


def chain_macs(ranked: Sequence[Ranked], removed: Iterable[Unit]) -> int:
    """Each layer reads all of the one before; the first reads three, the last is read by ten."""
    gone = {unit.label for unit in removed}
    widths = [3, *(sum(unit.label not in gone for unit in item.group.units) for item in ranked), 10]
    return sum(9 * before * after for before, after in pairwise(widths))


def least(ranked: Sequence[Ranked], step: int) -> list[Unit]:
    """What goes when every group has its smallest width."""
    return [
        unit
        for item in ranked
        for unit in item.lowest(item.group.width - snap_choices(item.group.width, step, min_channels=1)[0])
    ]


def kept_widths(ranked: Sequence[Ranked], removed: Iterable[Unit]) -> list[int]:
    """Widths that are left."""
    gone = {unit.label for unit in removed}
    return [sum(unit.label not in gone for unit in item.group.units) for item in ranked]


@given(st.integers(2, 2000), st.integers(1, 64), st.integers(1, 64))
def test_choices_are_steps_and_the_own_width(width: int, step: int, fewest: int) -> None:
    choices = snap_choices(width, step, fewest)
    assert list(choices) == sorted(set(choices))
    assert choices[-1] == width
    own = snap_choices(width, step, 1)[0]
    assert all(count % own == 0 and count >= fewest for count in choices[:-1])
    # On the device's step wherever the group can be halved on it, and finer only where it cannot.
    assert own == step or (own < step and own * 2 <= width < own * 4) or width == own


@given(WIDTHS, st.floats(0.02, 0.99), st.sampled_from([1, 2, 4, 8, 16]), st.sampled_from(SCOPES))
def test_the_target_holds_and_widths_are_on_steps(widths: list[int], target: float, step: int, scope: str) -> None:
    ranked = chain(widths)
    macs = partial(chain_macs, ranked)
    try:
        removed = allocate(ranked, scope, target, step, 1, macs)
    except RecipeError:
        assert macs(least(ranked, step)) > target * macs([])
        return
    assert macs(removed) <= target * macs([]) + 1e-6
    assert len({unit.label for unit in removed}) == len(removed)
    for item, width in zip(ranked, kept_widths(ranked, removed), strict=True):
        assert width in snap_choices(item.group.width, step, 1)
        went = {unit.label for unit in removed if unit in item.group.units}
        assert went == {unit.label for unit in item.lowest(item.group.width - width)}


@pytest.mark.parametrize("scope", ["global", "allocated"])
@given(WIDTHS, st.sampled_from([1, 4, 8]))
def test_no_step_is_left_that_would_fit(scope: str, widths: list[int], step: int) -> None:
    """As much as fits stays: one step more of any group breaks the target."""
    ranked = chain(widths)
    macs = partial(chain_macs, ranked)
    try:
        removed = allocate(ranked, scope, 0.5, step, 1, macs)
    except RecipeError:
        assume(False)
    kept = kept_widths(ranked, removed)
    for index, item in enumerate(ranked):
        wider = [count for count in snap_choices(item.group.width, step, 1) if count > kept[index]]
        if wider:
            back = set(item.lowest(item.group.width - kept[index])) - set(item.lowest(item.group.width - wider[0]))
            assert macs([unit for unit in removed if unit not in back]) > 0.5 * macs([])


@given(WIDTHS, st.floats(0.1, 0.9), st.floats(0.1, 0.9), st.sampled_from(["global", "local"]))
def test_a_smaller_target_leaves_no_more(widths: list[int], one: float, other: float, scope: str) -> None:
    ranked = chain(widths)
    macs = partial(chain_macs, ranked)
    low, high = sorted((one, other))
    try:
        small, large = (allocate(ranked, scope, target, 1, 1, macs) for target in (low, high))
    except RecipeError:
        assume(False)
    if scope == "local":
        pairs = zip(kept_widths(ranked, small), kept_widths(ranked, large), strict=True)
        assert all(narrow <= wide for narrow, wide in pairs)
    # Globally, single groups may trade places; the whole never falls by more than a step's worth.
    assert macs(small) <= low * macs([]) + 1e-6
    if macs(large) <= low * macs([]):
        assert kept_widths(ranked, small) == kept_widths(ranked, large)


def test_global_prunes_the_group_that_matters_less_and_local_both_alike() -> None:
    ranked = chain([16, 16])
    ranked = [Ranked(ranked[0].group, ranked[0].scores * 10), ranked[1]]
    macs = partial(chain_macs, ranked)
    first, second = kept_widths(ranked, allocate(ranked, "global", 0.5, 1, 1, macs))
    assert first == 16
    assert second < 10
    first, second = kept_widths(ranked, allocate(ranked, "local", 0.5, 1, 1, macs))
    assert first == second


@pytest.mark.parametrize("scope", SCOPES)
def test_no_group_falls_below_the_least(scope: str) -> None:
    ranked = chain([16, 32])
    removed = allocate(ranked, scope, 0.6, 4, 12, partial(chain_macs, ranked))
    assert min(kept_widths(ranked, removed)) >= 12


@pytest.mark.parametrize("scope", SCOPES)
@given(WIDTHS, st.sampled_from([1, 8]), st.integers(1, 8))
def test_an_unreachable_target_names_the_nearest_that_is_not(
    scope: str, widths: list[int], step: int, fewest: int
) -> None:
    ranked = chain(widths)
    macs = partial(chain_macs, ranked)
    with pytest.raises(RecipeError, match=r"^prune.target_macs: 1e-09 cannot be met") as refused:
        allocate(ranked, scope, 1e-9, step, fewest, macs)
    nearest = re.search(r"Set it to ([0-9.e-]+) or more", str(refused.value))
    if nearest is None:
        assert "Take another granularity, or leave [prune] out" in str(refused.value)
        with pytest.raises(RecipeError):
            allocate(ranked, scope, 0.999, step, fewest, macs)
    else:
        target = float(nearest[1].rstrip("."))
        assert macs(allocate(ranked, scope, target, step, fewest, macs)) <= target * macs([]) + 1e-6
        with pytest.raises(RecipeError):
            allocate(ranked, scope, target - 0.00101, step, fewest, macs)


def test_the_last_digit_of_a_share_costs_nothing() -> None:
    """0.58 of 100 is 57.99... in floating point; 58 of 100 is what was meant."""
    ranked = chain([50])
    removed = allocate(ranked, "global", 0.58, 1, 1, lambda units: 100 - 2 * len(list(units)))
    assert len(removed) == 21


@pytest.mark.parametrize("scope", SCOPES)
def test_equal_scores_of_zero_are_pruned_all_the_same(scope: str) -> None:
    ranked = [Ranked(item.group, np.zeros_like(item.scores)) for item in chain([8, 8])]
    removed = allocate(ranked, scope, 0.5, 1, 1, partial(chain_macs, ranked))
    assert chain_macs(ranked, removed) <= 0.5 * chain_macs(ranked, [])


def priced(ranked: Sequence[Ranked], prices: Sequence[float], limit: float) -> Budget:
    """A separable cost: each unit of a group costs the group's price."""
    price_of = {unit.label: price for item, price in zip(ranked, prices, strict=True) for unit in item.group.units}

    def cost(removed: Iterable[Unit]) -> float:
        return sum(price_of.values()) - sum(price_of[unit.label] for unit in removed)

    return Budget(key="prune.target_size_bytes", unit="bytes", dense=cost([]), limit=limit, cost=cost)


def kept_score(ranked: Sequence[Ranked], removed: Iterable[Unit]) -> float:
    """Score that is left."""
    gone = {unit.label for unit in removed}
    return sum(
        score
        for item in ranked
        for unit, score in zip(item.group.units, item.scores.tolist(), strict=True)
        if unit.label not in gone
    )


@given(WIDTHS, st.floats(0.3, 0.95), st.integers(0, 99))
def test_allocated_keeps_the_most_score_where_all_units_cost_alike(widths: list[int], share: float, seed: int) -> None:
    """The best there is: the highest scores, one of each group at least."""
    ranked = chain(widths, seed)
    limit = int(share * sum(widths))
    assume(limit >= len(widths))
    removed = allocate_to(ranked, "allocated", priced(ranked, [1] * len(widths), limit), Snapping(channel_step=1))
    first = sum(float(item.scores.max()) for item in ranked)
    others = sorted((score for item in ranked for score in sorted(item.scores.tolist())[:-1]), reverse=True)
    best = first + sum(others[: limit - len(widths)])
    assert kept_score(ranked, removed) == pytest.approx(best)


@given(
    st.lists(st.tuples(st.integers(2, 40), st.integers(1, 9)), min_size=1, max_size=5),
    st.floats(0.3, 0.95),
    st.integers(0, 99),
)
def test_allocated_keeps_no_less_than_local_but_for_a_step(
    groups: list[tuple[int, int]], share: float, seed: int
) -> None:
    widths, prices = zip(*groups, strict=True)
    ranked = chain(widths, seed)
    budget = priced(ranked, prices, share * sum(width * price for width, price in groups))
    try:
        local, allocated = (allocate_to(ranked, scope, budget, Snapping(channel_step=1)) for scope in SCOPES[1:3])
    except RecipeError:
        assume(False)
    step = max(float(item.scores.max()) for item in ranked)
    assert kept_score(ranked, allocated) >= kept_score(ranked, local) - step


@given(st.lists(st.integers(2, 24), min_size=2, max_size=4), st.floats(0.2, 0.9), st.integers(0, 99))
def test_allocated_is_the_greedy_of_its_definition(widths: list[int], share: float, seed: int) -> None:
    """Every price looked up anew at every step, and then every step back that still fits."""
    ranked = chain(widths, seed)
    macs = partial(chain_macs, ranked)
    try:
        removed = allocate(ranked, "allocated", share, 1, 1, macs)
    except RecipeError:
        assume(False)
    kept, limit = list(widths), share * macs([]) + 1e-6

    def cost(counts: list[int]) -> float:
        between = [3, *counts, 10]
        return sum(9 * before * after for before, after in pairwise(between))

    def moved(index: int, by: int) -> list[int]:
        return [*kept[:index], kept[index] + by, *kept[index + 1 :]]

    ladders = [np.sort(item.scores)[::-1] for item in ranked]
    while cost(kept) > limit:
        prices = [
            (ladder[kept[index] - 1] / (cost(kept) - cost(moved(index, -1))), index)
            for index, ladder in enumerate(ladders)
            if kept[index] > 1
        ]
        kept = moved(min(prices)[1], -1)
    found = kept_widths(ranked, removed)
    if all(cost(moved(index, 1)) > limit for index in range(len(kept)) if kept[index] < widths[index]):
        assert found == kept
    else:
        assert all(back >= taken for back, taken in zip(found, kept, strict=True))
    assert cost(found) <= limit


@given(st.lists(st.integers(2, 24), min_size=1, max_size=4), st.floats(0.2, 0.95), st.sampled_from([1, 2, 4]))
def test_a_damage_that_is_the_score_is_allocated_as_the_score(widths: list[int], share: float, step: int) -> None:
    ranked = chain(widths)
    macs = partial(chain_macs, ranked)
    try:
        kinds = [allocate(ranked, scope, share, step, 1, macs) for scope in ("allocated", "sensitivity")]
    except RecipeError:
        assume(False)
    assert kept_widths(ranked, kinds[0]) == kept_widths(ranked, kinds[1])


def test_sensitivity_follows_the_damage_and_not_the_scores() -> None:
    """The second group's scores are the lowest, and the network cannot do without it."""
    ranked = chain([8, 8])
    ranked = [Ranked(ranked[0].group, np.full(8, 9.0)), Ranked(ranked[1].group, np.full(8, 0.1))]
    dear = {unit.label for unit in ranked[1].group.units}

    def damage(removed: Sequence[Unit]) -> float:
        return sum(10.0 if unit.label in dear else 1.0 for unit in removed)

    budget = priced(ranked, [1, 1], 10)
    found = {
        scope: kept_widths(ranked, allocate_to(ranked, scope, budget, Snapping(channel_step=1), damage))
        for scope in ("allocated", "sensitivity")
    }
    assert found == {"allocated": [8, 2], "sensitivity": [2, 8]}


def test_what_gets_better_by_going_goes_where_it_saves_most() -> None:
    """A unit of either makes the network better alike, and one of the second saves ten times as much."""
    ranked = chain([8, 8])
    budget = priced(ranked, [1, 10], 80)
    removed = allocate_to(ranked, "sensitivity", budget, Snapping(channel_step=1), lambda gone: -0.1 * len(list(gone)))
    assert kept_widths(ranked, removed) == [8, 7]


def test_steps_that_the_device_does_not_feel_come_last() -> None:
    """From 16 to 8 channels saves MACs, and no time on a device that works on 16 at once."""
    ranked = chain([16, 32])
    ranked = [Ranked(item.group, np.ones(item.group.width)) for item in ranked]
    macs = partial(chain_macs, ranked)

    def on_device(orders: Sequence[Sequence[Unit]], step: int) -> Callable[..., float]:
        return lambda gone: float(
            sum(-(-(len(order) - int(count)) // step) * step for order, count in zip(orders, gone, strict=True))
        )

    budget = Budget(key="prune.target_macs", unit="MACs", dense=macs([]), limit=0.8 * macs([]), cost=macs, share=0.8)
    snapping, damage = Snapping(channel_step=16), partial(lost_score, ranked)
    felt = allocate_to(ranked, "sensitivity", replace(budget, on_device=on_device), snapping, damage)
    assert kept_widths(ranked, felt) == [16, 16]
    assert kept_widths(ranked, allocate_to(ranked, "sensitivity", budget, snapping, damage)) != [16, 16]


def test_allocated_takes_where_a_score_costs_most() -> None:
    """Both groups matter alike, and a unit of the second costs three times as much."""
    ranked = chain([12, 12])
    ranked = [Ranked(item.group, np.linspace(1, 2, 12)) for item in ranked]
    removed = allocate_to(ranked, "allocated", priced(ranked, [1, 3], 33), Snapping(channel_step=1))
    # 15 is to be saved: five units at 3 lose 1 + 1.09 + 1.18 + 1.27 + 1.36, and no unit at 1 is cheaper a byte.
    assert kept_widths(ranked, removed) == [12, 7]


@pytest.mark.parametrize("scope", SCOPES)
def test_nothing_goes_where_the_whole_network_fits(scope: str) -> None:
    ranked = chain([8, 8])
    budget, damage = priced(ranked, [1, 1], 16), partial(lost_score, ranked)
    assert allocate_to(ranked, scope, budget, Snapping(channel_step=1), damage) == []


@pytest.mark.parametrize("scope", SCOPES)
def test_a_cost_in_stairs_ends_under_its_limit(scope: str) -> None:
    """Where a single step saves nothing, two do."""
    ranked = chain([32, 32])

    def stairs(removed: Iterable[Unit]) -> float:
        return float(sum(-(-width // 8) for width in kept_widths(ranked, removed)))

    budget = Budget(key="prune.target_latency_ms", unit="ms", dense=8, limit=5, cost=stairs, source="predicted")
    removed = allocate_to(ranked, scope, budget, Snapping(channel_step=1), partial(lost_score, ranked))
    assert stairs(removed) <= 5
    if scope != "local":
        assert stairs(removed) == 5


def test_a_limit_that_is_no_share_is_refused_in_its_unit() -> None:
    ranked = chain([16, 16])
    budget = priced(ranked, [100, 100], 150)
    with pytest.raises(RecipeError) as refused:
        allocate_to(ranked, "global", budget, Snapping(channel_step=4))
    assert str(refused.value) == (
        "prune.target_size_bytes: 150 cannot be met: with every group at its smallest, 800 bytes remain "
        "(channel step 4, min_channels 1, 2 groups can be pruned). "
        "Set it to 800 or more."
    )
    in_ms = replace(budget, key="prune.target_latency_ms", unit="ms", source="measured", limit=0.1)
    thousandth = replace(in_ms, cost=lambda removed: budget.cost(removed) / 3e5, dense=3200 / 3e5, limit=1e-4)
    with pytest.raises(
        RecipeError, match=r"^prune.target_latency_ms: 0.0001 cannot .* 0.002667 ms \(measured\) remain"
    ):
        allocate_to(ranked, "global", thousandth, Snapping(channel_step=4))


def test_heads_go_one_by_one_and_one_stays() -> None:
    """Neither the device's step nor min_channels is about heads."""
    first, second = chain([12, 64])
    ranked = [Ranked(replace(first.group, kind="heads"), first.scores), second]
    snapping = Snapping(channel_step=32, min_channels=16)
    assert [snapping.choices(item.group) for item in ranked] == [tuple(range(1, 13)), (32, 64)]
    assert kept_widths(ranked, allocate_to(ranked, "local", priced(ranked, [1, 1], 33), snapping)) == [1, 32]


def test_a_group_that_was_narrowed_before_stays_on_the_step_it_began_with() -> None:
    """32 of 64 are left at a step of 32: on its own it would go to 16."""
    (item,) = chain([32])
    assert Snapping(channel_step=32).choices(item.group) == (16, 32)
    assert Snapping(channel_step=32, dense_widths={"0": 64}).choices(item.group) == (32,)
    assert Snapping(channel_step=16, dense_widths={"0": 40, "other": 9}).choices(item.group) == (16, 32)


@pytest.mark.parametrize("scope", SCOPES)
def test_the_order_of_groups_does_not_matter(scope: str) -> None:
    ranked = chain([24, 40, 16, 8])
    macs = partial(chain_macs, ranked)
    forwards, backwards = (allocate(items, scope, 0.4, 4, 1, macs) for items in (ranked, ranked[::-1]))
    assert {unit.label for unit in forwards} == {unit.label for unit in backwards}
