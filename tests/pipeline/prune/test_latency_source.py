"""Where milliseconds come from: the source that is chosen, what a missing one says, and estimates as budgets."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from torch import nn

from devices.errors import RecipeError
from devices.profile import HardwareProfile, LatencyTableProfile, Profile, load_profile
from pipeline.latency_source.choose import choose_source
from pipeline.latency_source.estimate import estimated_budget
from pipeline.prune.allocate import Ranked, Snapping, allocate_to
from pipeline.prune.budget import Budget
from pipeline.recipe.prune import LatencySource
from tests.pipeline.prune.latency_parts import HOST, grouped, pruned, some
from tests.pipeline.prune.networks import build, images

RATES = HardwareProfile(int8_tops=10, fp16_tflops=5, bandwidth_gb_s=50, gpu_clock_mhz=1000)
TABLE = LatencyTableProfile(precision="int8", channels=(4, 16), ms_per_gmac=(4, 2), overhead_ms_per_layer=0.01)


def board(**changes: object) -> Profile:
    """A board that is not this host."""
    return replace(load_profile("jetson-orin-nano-8gb"), **changes)  # type: ignore[arg-type]


def estimate(source: Literal["table", "predicted"], network: nn.Module, profile: Profile) -> Budget:
    return estimated_budget(1.0, source, network, images(1), grouped(network, images(1)).trace, profile, "int8")


@pytest.mark.parametrize("source", ["table", "predicted"])
def test_an_estimate_is_that_of_the_smaller_network(source: Literal["table", "predicted"]) -> None:
    network, image = build("residual"), images(1)
    profile = board(hardware=RATES, latency_table=TABLE)

    budget = estimate(source, network, profile)
    units = some(network, image, 0)
    again = estimate(source, pruned(network, units), profile)
    assert budget.source == source
    assert again.dense == pytest.approx(budget.cost(units), rel=1e-12)
    assert budget.cost(units) < budget.dense
    assert budget.width_cost([units])(np.array([len(units)])) == budget.cost(units)


@pytest.mark.parametrize("scope", ["global", "local", "allocated"])
@pytest.mark.parametrize("source", ["table", "predicted"])
def test_an_estimate_is_a_budget_like_any_other(source: Literal["table", "predicted"], scope: str) -> None:
    network, image = build("residual"), images(1)
    ranked = [
        Ranked(group, np.random.default_rng(0).random(group.width) + 0.1) for group in grouped(network, image).groups
    ]
    slow = HardwareProfile(int8_tops=1e-4, bandwidth_gb_s=1, gpu_clock_mhz=1e5)
    profile = board(hardware=slow, latency_table=TABLE)
    budget = estimate(source, network, profile)
    least = budget.cost([unit for item in ranked for unit in item.lowest(item.group.width - 1)])
    limit = (least + budget.dense) / 2
    removed = allocate_to(ranked, scope, budget.at(limit), Snapping(channel_step=1))
    assert removed
    assert budget.cost(removed) <= limit
    with pytest.raises(RecipeError, match=rf"^prune.target_latency_ms: .* ms \({source}\) remain"):
        allocate_to(ranked, scope, budget.at(least / 2), Snapping(channel_step=1))


def test_the_best_source_there_is() -> None:
    cpu = load_profile("cpu")
    assert choose_source("auto", cpu, HOST, "int8") == "measured"
    both = board(hardware=RATES, latency_table=TABLE)
    assert choose_source("auto", both, HOST, "int8") == "table"
    assert choose_source("predicted", both, HOST, "int8") == "predicted"
    assert choose_source("auto", board(hardware=RATES), HOST, "int8") == "predicted"
    assert choose_source("auto", both, HOST, "fp16") == "predicted"


@pytest.mark.parametrize(
    ("asked", "profile", "precision", "said"),
    [
        ("measured", board(), "int8", "is 'measured', and its engine is built on the device itself by TensorRT"),
        ("table", board(), "int8", "is 'table', and the profile has no [latency_table]"),
        ("table", board(latency_table=TABLE), "fp32", "[latency_table] is of int8, and fp32 ships"),
        (
            "predicted",
            load_profile("cpu"),
            "int8",
            "lacks hardware.int8_tops and hardware.bandwidth_gb_s and hardware.",
        ),
        ("predicted", board(hardware=RATES), "fp32", "lacks hardware.fp32_tflops"),
    ],
)
def test_a_source_that_is_not_there_says_what_it_lacks(
    asked: LatencySource, profile: Profile, precision: str, said: str
) -> None:
    with pytest.raises(RecipeError) as refused:
        choose_source(asked, profile, HOST, precision)
    assert refused.value.where == "prune.latency_source"
    assert said in str(refused.value)


def test_a_device_without_any_source_is_refused_with_all_that_is_missing() -> None:
    profile = board(hardware=HardwareProfile(int8_tops=10))
    with pytest.raises(RecipeError) as refused:
        choose_source("auto", profile, HOST, "int8")
    assert refused.value.where == "prune.target_latency_ms"
    for part in (
        "measured here (its engine is built on",
        "no [latency_table]",
        "lacks hardware.bandwidth_gb_s",
        "set target_macs",
    ):
        assert part in str(refused.value)


def test_on_a_board_nothing_is_measured_before_its_engines_are_built() -> None:
    cpu = load_profile("cpu")
    with pytest.raises(RecipeError, match="pruned networks are not measured on board 'kitchen'"):
        choose_source("measured", cpu, HOST, "int8", "kitchen")
    both = board(hardware=RATES, latency_table=TABLE)
    assert choose_source("auto", both, HOST, "int8", "kitchen") == "table"
