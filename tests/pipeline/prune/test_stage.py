"""The prune stage as a whole: what it writes comes back, and its figures are those of the smaller network."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from devices.errors import ModelError, RecipeError
from devices.profile import LatencyTableProfile, load_profile
from pipeline.latency_source.estimate import estimated_budget
from pipeline.model import NetworkArtifact, build_network, load_network
from pipeline.prune.budget import Budget, Source
from pipeline.prune.size import count_macs, count_parameters
from pipeline.prune.trace import Trace
from pipeline.recipe import ModelConfig, PruneConfig
from tests.pipeline.prune.networks import build, images
from tests.pipeline.prune.parts import prune

MODEL = ModelConfig(factory="pipeline.zoo:residual_cnn", args={"in_channels": 3, "channels": 16, "classes": 5})


def dense() -> nn.Module:
    """The network of `MODEL` with weights of its own."""
    return build_network(MODEL, seed=7)


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("target", [0.6, 0.3])
def test_it_meets_its_target_and_says_what_it_did(tmp_path: Path, scope: Any, target: float) -> None:
    network = dense()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    result = prune(PruneConfig(target_macs=target, scope=scope), network, images(1), 4, tmp_path)
    metrics: Any = json.loads(json.dumps(result.metrics))
    smaller = load_network(MODEL, result.artifact, seed=1)
    assert metrics["macs_before"] == count_macs(network, images(1))
    assert metrics["macs_after"] == count_macs(smaller, images(1)) <= target * metrics["macs_before"]
    assert metrics["parameters_after"] == count_parameters(smaller) < count_parameters(network)
    widths = {name: tensor.shape[0] for name, tensor in smaller.named_parameters()}
    assert {f"{row['name']}.weight": row["after"] for row in metrics["layers"]}.items() <= widths.items()
    assert all(group["width_after"] % 4 == 0 for group in metrics["groups"])
    assert {group["name"]: group["width_after"] for group in metrics["groups"]}.items() <= widths.items()
    assert metrics["left_out"] == [
        {"tensor": "classifier.weight", "channels": 5, "reason": "it is the network's output"}
    ]
    # The network that was given is whole.
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_target_beyond_the_device_s_step_is_met_at_a_finer_one_and_said(tmp_path: Path) -> None:
    """64 channels have two widths at a step of 32, and a quarter of the MACs is all that they come down to."""
    network = build_network(ModelConfig(factory=MODEL.factory, args={**MODEL.args, "channels": 64}), seed=7)
    for target, step in ((0.3, 32), (0.2, 16)):
        metrics = prune(PruneConfig(target_macs=target), network, images(1), 32, tmp_path / str(step)).metrics
        assert (metrics["channel_step"], metrics["device_step"]) == (step, 32)
        groups: Any = metrics["groups"]
        assert all(group["width_after"] % step == 0 for group in groups)
        assert step == 32 or any(group["width_after"] % 32 for group in groups)
    with pytest.raises(RecipeError, match=r"0\.001 cannot be met: .* \(channel step 8") as refused:
        prune(PruneConfig(target_macs=0.001), network, images(1), 32, tmp_path)
    # What it names can be met, and hardly less.
    nearest = re.search(r"Set it to ([0-9.]+) or more", refused.value.fix)
    assert nearest is not None
    prune(PruneConfig(target_macs=float(nearest[1])), network, images(1), 32, tmp_path / "nearest")
    with pytest.raises(RecipeError, match="cannot be met"):
        prune(PruneConfig(target_macs=float(nearest[1]) * 0.99), network, images(1), 32, tmp_path)
    assert "ignore less" not in refused.value.fix
    with pytest.raises(RecipeError, match="or ignore less"):
        prune(PruneConfig(target_macs=0.001, ignore=("blocks.0.*",)), network, images(1), 32, tmp_path)


class Milliseconds:
    """A source of milliseconds from a table, which may pass for another."""

    def __init__(self, source: Source) -> None:
        self.source, self.asked = source, 0

    def budget(
        self, limit_ms: float, network: nn.Module, dense: nn.Module, image_NCHW: torch.Tensor, trace: Trace
    ) -> Budget:
        del dense
        self.asked += 1
        table = LatencyTableProfile(precision="int8", channels=(1, 64), ms_per_gmac=(1, 1), overhead_ms_per_layer=0.0)
        profile = replace(load_profile("jetson-orin-nano-8gb"), latency_table=table)
        found = estimated_budget(limit_ms, "table", network, image_NCHW, trace, profile, "int8")
        return replace(found, source=self.source)


def test_milliseconds_of_a_table_are_met_at_a_finer_step_too_and_those_of_engines_are_not(tmp_path: Path) -> None:
    """A try by a table costs nothing; one that is measured costs an engine."""
    network = build_network(ModelConfig(factory=MODEL.factory, args={**MODEL.args, "channels": 64}), seed=7)
    config = PruneConfig(target_latency_ms=0.2 * count_macs(network, images(1)) / 1e9)
    latency = Milliseconds("table")
    metrics = prune(config, network, images(1), 32, tmp_path / "table", latency=latency).metrics
    assert (metrics["channel_step"], metrics["device_step"], metrics["latency_source"]) == (16, 32, "table")
    assert latency.asked == 1
    assert config.target_latency_ms is not None
    reached: Any = metrics["reached"]
    assert reached <= config.target_latency_ms
    with pytest.raises(RecipeError, match=r"prune\.target_latency_ms: .* cannot be met: .* \(channel step 32"):
        prune(config, network, images(1), 32, tmp_path / "measured", latency=Milliseconds("measured"))


def test_equal_inputs_give_equal_files(tmp_path: Path) -> None:
    config = PruneConfig(target_macs=0.4)
    for folder in ("one", "two"):
        prune(config, dense(), images(1, seed=len(folder)), 4, tmp_path / folder)
    for name in ("plan.json", "weights.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_what_is_kept_is_what_weighs_most(tmp_path: Path) -> None:
    """Weights of the smaller network are slices of the dense one's, not made anew."""
    network = dense()
    prune(PruneConfig(target_macs=0.4), network, images(1), 4, tmp_path)
    smaller = load_network(MODEL, NetworkArtifact(tmp_path), seed=1)
    plan = json.loads((tmp_path / "plan.json").read_text())
    keep = {(cut["tensor"], cut["dim"]): cut["keep"] for cut in plan["cuts"]}
    name = "blocks.0.conv1.weight"
    expected = network.get_parameter(name)[keep[name, 0]][:, keep.get((name, 1), list(range(16)))]
    assert torch.equal(smaller.get_parameter(name), expected)


def test_a_network_without_anything_to_prune_is_an_error(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).eval()
    with pytest.raises(ModelError, match=r"nothing in this network can be pruned: it is the network's output"):
        prune(PruneConfig(target_macs=0.5), network, images(1), 1, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_recipe_s_limits_are_kept_to(tmp_path: Path) -> None:
    """What is ignored, and the smallest width, both bound what can be reached."""
    config = PruneConfig(target_macs=0.7, ignore=("blocks.0.*",), min_channels=8)
    metrics: Any = prune(config, dense_wide(), images(1), 4, tmp_path).metrics
    assert {group["name"] for group in metrics["groups"]} == {"blocks.1.conv1.weight", "blocks.2.conv1.weight"}
    assert min(group["width_after"] for group in metrics["groups"]) >= 8
    with pytest.raises(RecipeError, match=r"min_channels 16, 2 groups can be pruned"):
        prune(config.model_copy(update={"min_channels": 16}), dense_wide(), images(1), 4, tmp_path)


def dense_wide() -> nn.Module:
    """Three blocks."""
    from pipeline.zoo import residual_cnn

    return residual_cnn(3, 16, 3, 5).eval()


def test_left_out_parts_are_reported(tmp_path: Path) -> None:
    metrics: Any = prune(PruneConfig(target_macs=0.9), build("unknown"), images(1), 1, tmp_path).metrics
    reasons = {row["tensor"]: row["reason"] for row in metrics["left_out"]}
    assert reasons["first.0.weight"] == "operation 'cumsum' is not followed"
