"""Steps that take long say how far they are: step by step, from nothing to nearly all, and never back."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from devices.stage import Progress
from pipeline.threats.edge.differential import DifferentialConfig, differential
from pipeline.threats.edge.physical import PhysicalConfig, patch, universal
from pipeline.threats.edge.subject import Images, Subject
from pipeline.threats.scan.inversion import invert
from pipeline.threats.scan.search import SearchConfig

STEPS = 5


def tried(what: str, pair: tuple[Subject, Subject], images: Images, progress: Progress) -> int:
    """Do it, and say how often it has to be told."""
    physical = PhysicalConfig(steps=STEPS)
    if what == "patch":
        patch(pair, images, physical, progress=progress)
    elif what == "universal":
        universal(pair, images, physical, progress=progress)
    elif what == "differential":
        differential([pair], images.test, DifferentialConfig(epsilon=0.1, steps=STEPS), progress=progress)
    else:
        clean = torch.from_numpy(images.test.batch(slice(0, 4)))
        invert(pair[0].network, clean, 10, SearchConfig(steps=STEPS), progress)
    return 2 * STEPS


@pytest.mark.parametrize("what", ["patch", "universal", "differential", "inversion"])
def test_a_long_step_says_how_far_it_is(what: str, pair: tuple[Subject, Subject], images: Images) -> None:
    told: list[float] = []
    least = tried(what, pair, images, lambda done, total, _: told.append(done / total))
    assert len(set(told)) >= least
    assert 0 <= told[0] < 0.3
    assert 0.8 < told[-1] <= 1
    assert all(before <= after for before, after in pairwise(told))
