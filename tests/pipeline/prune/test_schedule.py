"""Schedules: how much is gone after each step, and how epochs are divided."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.errors import RecipeError
from pipeline.prune.budget import Budget
from pipeline.prune.schedule import epochs_of, limit_at, share_at
from pipeline.recipe import PruneConfig

SCHEDULES = st.one_of(
    st.just(PruneConfig(target_macs=0.5)),
    st.builds(lambda steps: PruneConfig(target_macs=0.5, schedule="linear", steps=steps), st.integers(2, 50)),
    st.builds(
        lambda steps, power: PruneConfig(target_macs=0.5, schedule="polynomial", steps=steps, power=power),
        st.integers(2, 50),
        st.floats(0.1, 10),
    ),
)


@given(SCHEDULES)
def test_shares_rise_from_nothing_to_all(config: PruneConfig) -> None:
    shares = [share_at(config, step) for step in range(config.steps + 1)]
    assert shares[0] == 0
    assert shares[-1] == 1
    assert shares == sorted(shares)


def test_shares_by_hand() -> None:
    """Zhu & Gupta's cube takes most at first; a power of 1 is linear."""
    cube = PruneConfig(target_macs=0.5, schedule="polynomial", steps=4)
    assert [share_at(cube, step) for step in range(5)] == [0, 1 - 27 / 64, 1 - 1 / 8, 1 - 1 / 64, 1]
    linear = PruneConfig(target_macs=0.5, schedule="linear", steps=4)
    assert [share_at(linear, step) for step in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    first = PruneConfig(target_macs=0.5, schedule="polynomial", steps=4, power=1)
    assert [share_at(first, step) for step in range(5)] == [share_at(linear, step) for step in range(5)]
    with pytest.raises(ValueError, match="step 5 of 4"):
        share_at(linear, 5)


@given(SCHEDULES, st.floats(1, 1e12), st.floats(0.01, 0.99))
def test_limits_fall_from_dense_to_the_budget_exactly(config: PruneConfig, dense: float, share: float) -> None:
    budget = Budget(key="k", unit="MACs", dense=dense, limit=share * dense, cost=lambda removed: 0)
    limits = [limit_at(config, budget, step) for step in range(config.steps + 1)]
    assert limits[0] == dense
    assert limits[-1] == budget.limit
    assert limits == sorted(limits, reverse=True)


@given(st.integers(1, 1000), st.integers(1, 50))
def test_epochs_are_divided_without_loss(total: int, steps: int) -> None:
    if total < steps:
        with pytest.raises(RecipeError, match=f"finetune.epochs: is {total}, and prune.steps is {steps}"):
            epochs_of(total, steps)
        return
    epochs = epochs_of(total, steps)
    assert len(epochs) == steps
    assert sum(epochs) == total
    assert list(epochs) == sorted(epochs)
    assert max(epochs) - min(epochs) <= 1
