"""Whole blocks and channels in one step: the target holds, the least harm is taken, the plan comes back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from devices.errors import ModelError, RecipeError
from pipeline.model import NetworkArtifact, build_network, load_network, load_plan
from pipeline.prune.budget import Budget, latency_budget
from pipeline.prune.groups import Unit
from pipeline.prune.size import count_macs
from pipeline.recipe import ModelConfig, PruneConfig
from tests.pipeline.prune.networks import build, images
from tests.pipeline.prune.parts import prune

MODEL = ModelConfig(
    factory="pipeline.zoo:residual_cnn", args={"in_channels": 3, "channels": 16, "blocks": 3, "classes": 5}
)
BATCHES = tuple((images(16, seed=seed), torch.arange(16) % 5) for seed in range(2))


def pruned(folder: Path, **settings: Any) -> dict[str, Any]:
    """Metrics of one step on the network of `MODEL`."""
    config = PruneConfig(granularity="blocks_and_channels", **settings)
    result = prune(config, build_network(MODEL, seed=7), images(1), 4, folder, batches=BATCHES)
    found: dict[str, Any] = json.loads(json.dumps(result.metrics))
    return found


def answers(folder: Path) -> torch.Tensor:
    """Of the network that comes back from the folder."""
    with torch.inference_mode():
        return load_network(MODEL, NetworkArtifact(folder), seed=1).eval()(images(4, seed=9))


@pytest.mark.parametrize("target", [{"target_macs": 0.4}, {"target_parameters": 0.4}, {"target_size_bytes": 3000}])
def test_the_target_holds_and_the_least_harm_is_taken(tmp_path: Path, target: dict[str, Any]) -> None:
    found = pruned(tmp_path, **target)
    assert found["reached"] <= found["limit"]
    assert [row["blocks"] for row in found["tried"]] == list(range(len(found["tried"])))
    least = min(found["tried"], key=lambda row: row["damage"])
    assert len(found["blocks"]) == least["blocks"]
    smaller = load_network(MODEL, NetworkArtifact(tmp_path), seed=1)
    assert count_macs(smaller, images(1)) == found["macs_after"] < found["macs_before"]


def test_a_count_of_blocks_is_kept_to_and_channels_do_the_rest(tmp_path: Path) -> None:
    found = pruned(tmp_path, target_macs=0.4, blocks=1)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["blocks"] == [row["name"] for row in found["blocks"]]
    assert len(plan["blocks"]) == 1
    assert plan["cuts"]
    skipped = plan["blocks"][0]
    assert not any(cut["tensor"].startswith(f"{skipped}.conv1") and cut["dim"] == 0 for cut in plan["cuts"])
    assert {row["blocks"] for row in found["tried"]} == {1}
    assert answers(tmp_path).shape == (4, 5)


def test_blocks_that_meet_the_target_alone_leave_the_channels(tmp_path: Path) -> None:
    alone = PruneConfig(granularity="blocks", target_macs=0.8)
    blocks = prune(alone, build_network(MODEL, seed=7), images(1), 4, tmp_path / "blocks", batches=BATCHES)
    found = pruned(tmp_path / "both", target_macs=0.8, blocks=len(list(blocks.metrics["blocks"])))  # type: ignore[call-overload]
    assert json.loads((tmp_path / "both" / "plan.json").read_text())["cuts"] == []
    assert found["blocks"] == blocks.metrics["blocks"]
    assert found["macs_after"] == blocks.metrics["macs_after"]


@dataclass(frozen=True)
class Milliseconds:
    """A device on which the first block takes nearly all the time, and channels none."""

    def budget(self, limit_ms: float, network: nn.Module, dense: nn.Module, *_: Any) -> Budget:
        def cost(_: Sequence[Unit], network: nn.Module = network) -> float:
            kept = {name.split(".")[1] for name, _ in network.named_parameters() if name.startswith("blocks.")}
            return 1.0 + 8.0 * ("0" in kept) + 0.1 * len(kept)

        return latency_budget(limit_ms, cost([], dense), cost, "measured")


@pytest.mark.parametrize("granularity", ["blocks", "blocks_and_channels"])
def test_of_milliseconds_the_block_goes_that_saves_them(tmp_path: Path, granularity: Any) -> None:
    config = PruneConfig(granularity=granularity, target_latency_ms=2.0)
    more: dict[str, Any] = {"batches": BATCHES, "latency": Milliseconds()}
    metrics: Any = prune(config, build_network(MODEL, seed=7), images(1), 4, tmp_path, **more).metrics
    assert [row["name"] for row in metrics["blocks"]] == ["blocks.0"]
    assert metrics["reached"] == pytest.approx(1.2)
    assert (metrics["unit"], metrics["latency_source"]) == ("ms", "measured")
    assert json.loads((tmp_path / "plan.json").read_text())["cuts"] == []


def test_a_target_that_leaves_no_channels_to_prune_is_met_by_blocks_alone(tmp_path: Path) -> None:
    """With the stem kept there is no group once all blocks are gone."""
    found = pruned(tmp_path, target_macs=0.1, ignore=("stem.*",))
    assert len(found["blocks"]) == 3
    assert found["macs_after"] <= 0.1 * found["macs_before"]
    assert json.loads((tmp_path / "plan.json").read_text())["cuts"] == []


def test_a_loss_that_is_not_finite_is_said(tmp_path: Path) -> None:
    config = PruneConfig(granularity="blocks_and_channels", target_macs=0.5)
    more: dict[str, Any] = {"batches": BATCHES, "loss": lambda network, x, _: network(x).sum() * float("nan")}
    with pytest.raises(ModelError, match=r"^model: its loss or its answers are not finite"):
        prune(config, build_network(MODEL, seed=7), images(1), 4, tmp_path, **more)


def test_steps_of_a_schedule_go_on_from_each_other(tmp_path: Path) -> None:
    network = build_network(MODEL, seed=7)
    config = PruneConfig(granularity="blocks_and_channels", target_macs=0.3, schedule="linear", steps=2)
    first = prune(config, network, images(1), 4, tmp_path / "1", batches=BATCHES)
    between = load_network(MODEL, first.artifact, seed=1)
    plan = load_plan(first.artifact)
    assert plan is not None
    more = {"dense": network, "plan": plan, "step": 2, "batches": BATCHES}
    second = prune(config, between, images(1), 4, tmp_path / "2", **more)
    whole = count_macs(network, images(1))
    assert count_macs(load_network(MODEL, second.artifact, seed=1), images(1)) <= 0.3 * whole
    assert 0.3 * whole < count_macs(between, images(1)) <= 0.65 * whole


def test_a_network_without_blocks_loses_channels_alone(tmp_path: Path) -> None:
    config = PruneConfig(granularity="blocks_and_channels", target_macs=0.5)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.LazyLinear(5)).eval()
    network(images(1))
    metrics: Any = prune(config, network, images(1), 2, tmp_path, batches=BATCHES).metrics
    assert metrics["blocks"] == []
    assert metrics["macs_after"] <= 0.5 * metrics["macs_before"]


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^prune\.blocks: is 9, and 3 blocks of this network can go"):
        pruned(tmp_path, target_macs=0.5, blocks=9)
    with pytest.raises(RecipeError, match=r"^prune\.target_macs: 0\.001 cannot be met"):
        pruned(tmp_path, target_macs=0.001)
    config = PruneConfig(granularity="blocks_and_channels", target_macs=0.5)
    with pytest.raises(RecipeError, match=r"^prune\.criterion_samples: smaller networks are compared"):
        prune(config, build("residual"), images(1), 4, tmp_path)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).eval()
    with pytest.raises(ModelError, match="nothing in this network can be pruned"):
        prune(config, flat, images(1), 1, tmp_path, batches=BATCHES)
    for wrong in ({"blocks": 1}, {"granularity": "blocks_and_channels", "blocks": 1, "schedule": "linear", "steps": 2}):
        with pytest.raises(ValueError, match=r"prune\.blocks is of granularity 'blocks_and_channels'"):
            PruneConfig(target_macs=0.5, **wrong)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_sensitivity_runs_the_network_for_what_it_takes(tmp_path: Path) -> None:
    """A group without which nothing changes goes first, though its weights are the largest."""
    network = build_network(MODEL, seed=7)
    with torch.no_grad():
        # What the first block adds is nothing: its inner channels are free.
        first = network.get_submodule("blocks.0")
        last = [module for module in first.modules() if isinstance(module, nn.BatchNorm2d)][-1]
        last.weight.zero_()
        last.bias.zero_()
        first.get_parameter("conv1.weight").mul_(100)
    by_scope, told = {}, []
    for scope in ("allocated", "sensitivity"):
        config = PruneConfig(target_macs=0.85, scope=scope)  # type: ignore[arg-type]
        more: dict[str, Any] = {"batches": BATCHES, "progress": lambda *seen: told.append(seen)}
        metrics: Any = prune(config, network, images(1), 4, tmp_path / scope, **more).metrics
        by_scope[scope] = {row["name"]: row["width_after"] for row in metrics["groups"]}
    assert by_scope["sensitivity"]["blocks.0.conv1.weight"] < by_scope["allocated"]["blocks.0.conv1.weight"]
    assert all(width == 16 for name, width in by_scope["sensitivity"].items() if name != "blocks.0.conv1.weight")
    assert [done for done, _, _ in told] == list(range(1, len(told) + 1))
    assert all(text == f"{done} networks tried" for done, _, text in told)
