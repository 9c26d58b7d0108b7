"""Allocation to measured milliseconds: the limit holds, and engines are few."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.errors import RecipeError
from pipeline.prune.allocate import Ranked, Snapping
from pipeline.prune.budget import Budget, latency_budget
from pipeline.prune.groups import Unit
from pipeline.prune.latency import MOST_BUILDS, WITHIN, allocate_to_latency
from tests.pipeline.prune.allocate_parts import SCOPES, chain, chain_macs, kept_widths, lost_score


class Device:
    """Milliseconds as a device would have them: an overhead, stairs of eight channels, and some noise."""

    def __init__(self, ranked: Sequence[Ranked], noise: float) -> None:
        self.asked: list[list[int]] = []
        self._ranked, self._rng, self._noise = ranked, np.random.default_rng(0), noise

    def latency_ms(self, removed: Sequence[Unit]) -> float:
        widths = kept_widths(self._ranked, removed)
        self.asked.append(widths)
        stairs = [3, *(-(-width // 8) * 8 for width in widths), 10]
        macs = sum(9 * before * after for before, after in pairwise(stairs))
        return (0.1 + macs / 1e5) * (1 + self._noise * float(self._rng.normal()))


def budgets(ranked: Sequence[Ranked], device: Device, share: float) -> tuple[Budget, Budget]:
    """Of the milliseconds above the overhead this share may stay; and the proxy."""
    dense_ms = Device(ranked, 0).latency_ms([])
    macs = partial(chain_macs, ranked)
    proxy = Budget(key="prune.target_macs", unit="MACs", dense=macs([]), limit=0, cost=macs)
    return latency_budget(0.1 + share * (dense_ms - 0.1), dense_ms, device.latency_ms, "measured"), proxy


@given(
    st.lists(st.integers(16, 96), min_size=2, max_size=5),
    st.floats(0.05, 0.95),
    st.sampled_from([1, 8]),
    st.sampled_from(SCOPES),
    st.sampled_from([0.0, 0.01]),
)
def test_the_limit_holds_with_few_engines(widths: list[int], share: float, step: int, scope: str, noise: float) -> None:
    ranked = chain(widths)
    device, snapping = Device(ranked, noise), Snapping(channel_step=step)
    budget, proxy = budgets(ranked, device, share)
    try:
        found = allocate_to_latency(ranked, scope, budget, proxy, snapping, partial(lost_score, ranked))
    except RecipeError:
        assert len(device.asked) == 2
        return
    assert found.chosen.latency_ms <= budget.limit
    assert len(found.probes) == len(device.asked) <= MOST_BUILDS
    assert len({tuple(asked) for asked in device.asked}) == len(device.asked), "no widths are measured twice"
    met = [probe for probe in found.probes if probe.latency_ms <= budget.limit]
    assert found.chosen.proxy == max(probe.proxy for probe in met)
    for width, item in zip(kept_widths(ranked, found.chosen.removed), ranked, strict=True):
        assert width in snapping.choices(item.group)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.8])
def test_the_limit_is_met_closely_where_widths_are_fine(scope: str, share: float) -> None:
    """Latency without stairs: within 2 % of the limit, and the search ends there."""
    ranked = chain([96, 128, 64, 96])
    macs = partial(chain_macs, ranked)
    proxy = Budget(key="prune.target_macs", unit="MACs", dense=macs([]), limit=0, cost=macs)
    budget = latency_budget(share, 1.0, lambda removed: (macs(removed) / macs([])) ** 0.7, "measured")
    found = allocate_to_latency(ranked, scope, budget, proxy, Snapping(channel_step=1), partial(lost_score, ranked))
    assert (1 - WITHIN) * share <= found.chosen.latency_ms <= share
    assert len(found.probes) <= 8


def test_a_network_that_is_quick_enough_stays_whole() -> None:
    ranked = chain([32, 32])
    device = Device(ranked, 0)
    budget, proxy = budgets(ranked, device, 1.0)
    found = allocate_to_latency(ranked, "global", budget, proxy, Snapping(channel_step=8))
    assert found.chosen.removed == ()
    assert device.asked == [[32, 32]]


def test_too_few_milliseconds_are_refused_with_what_was_reached() -> None:
    ranked = chain([32, 32])
    device = Device(ranked, 0)
    budget, proxy = budgets(ranked, device, 0.5)
    least_ms = device.latency_ms([unit for item in ranked for unit in item.lowest(24)])
    with pytest.raises(RecipeError) as refused:
        allocate_to_latency(ranked, "global", budget.at(0.05), proxy, Snapping(channel_step=8))
    reached = budget.nearest(least_ms)
    assert refused.value.where == "prune.target_latency_ms"
    assert refused.value.what.startswith(
        f"0.05 cannot be met: with every group at its smallest, {reached:g} ms (measured) remain"
    )
    assert f"Set it to {reached:g} or more" in str(refused.value)
