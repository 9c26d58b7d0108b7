"""Networks on disk: they come back equal, in another process too, and never through a pickle."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from devices.errors import ModelError
from pipeline.model import (
    NetworkArtifact,
    build_network,
    check_network,
    load_checkpoint,
    load_network,
    load_plan,
    save_network,
)
from pipeline.prune.stage import prune_channels
from pipeline.recipe import ModelConfig, PruneConfig

ROOT = Path(__file__).parent.parent.parent
CONFIG = ModelConfig(factory="pipeline.zoo:residual_cnn", args={"channels": 16, "blocks": 1}, mean=(0.3,), std=(0.25,))
IMAGES = torch.rand((4, 1, 8, 8), generator=torch.Generator().manual_seed(0))

_ELSEWHERE = """
import sys, torch
from pathlib import Path
from tests.pipeline.test_model import CONFIG, IMAGES
from pipeline.model import NetworkArtifact, load_network
with torch.no_grad():
    torch.save(load_network(CONFIG, NetworkArtifact(Path(sys.argv[1])), seed=99)(IMAGES), sys.argv[2])
"""


def test_a_pruned_network_comes_back_in_another_process(tmp_path: Path) -> None:
    """Factory, plan and weights give equal outputs, whatever the seed of the factory's own weights."""
    dense = build_network(CONFIG, seed=0)
    prune_channels(PruneConfig(target_macs=0.6), dense, IMAGES[:1], 4, tmp_path)
    assert load_plan(NetworkArtifact(tmp_path)) is not None
    with torch.no_grad():
        expected = load_network(CONFIG, NetworkArtifact(tmp_path), seed=1)(IMAGES)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", _ELSEWHERE, str(tmp_path), str(tmp_path / "answers.pt")]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    assert torch.equal(torch.load(tmp_path / "answers.pt", weights_only=True), expected)
    assert not torch.equal(expected, dense(IMAGES))


def test_the_seed_decides_the_initial_weights() -> None:
    one, again, other = (build_network(CONFIG, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["network.stem.weight"], other["network.stem.weight"])


def test_normalization_becomes_part_of_the_network() -> None:
    inner = build_network(ModelConfig(factory=CONFIG.factory, args=CONFIG.args), seed=0)
    whole = build_network(CONFIG, seed=0)
    with torch.no_grad():
        assert torch.allclose(whole(IMAGES), inner((IMAGES - 0.3) / 0.25), atol=1e-6)


def test_checkpoints_of_the_bare_network_load(tmp_path: Path) -> None:
    """A checkpoint has the names of the user's network, with or without our normalization around it; .pt too."""
    from safetensors.torch import save_file

    inner = build_network(ModelConfig(factory=CONFIG.factory, args=CONFIG.args), seed=7)
    save_file(inner.state_dict(), tmp_path / "w.safetensors")
    torch.save({"state_dict": inner.state_dict(), "epoch": 3}, tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        network = build_network(CONFIG, seed=0)
        load_checkpoint(network, tmp_path / name)
        assert torch.equal(network.state_dict()["network.stem.weight"], inner.state_dict()["stem.weight"])


@pytest.mark.parametrize("change", ["missing", "unknown", "shape", "nan", "cut", "list"])
def test_wrong_checkpoints_are_refused(tmp_path: Path, change: str) -> None:
    from safetensors.torch import save_file

    network = build_network(CONFIG, seed=0)
    state = {name.removeprefix("network."): tensor.clone() for name, tensor in network.state_dict().items()}
    path = tmp_path / "w.safetensors"
    says = {
        "missing": "lacks 'stem.weight'",
        "unknown": "has 'extra', which the network lacks",
        "shape": r"'stem.weight' has shape \(3,\)",
        "nan": "'stem.weight' holds values that are not finite",
        "cut": "cannot be read as a checkpoint",
        "list": "is not a state dict",
    }
    if change == "missing":
        del state["stem.weight"]
    elif change == "unknown":
        state["extra"] = torch.zeros(1)
    elif change == "shape":
        state["stem.weight"] = torch.zeros(3)
    elif change == "nan":
        state["stem.weight"][0] = torch.inf
    save_file(state, path)
    if change == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    elif change == "list":
        path = tmp_path / "w.pt"
        torch.save([1, 2], path)
    with pytest.raises(ModelError, match=says[change]) as caught:
        load_checkpoint(network, path)
    assert path.name in caught.value.where


def test_a_plan_and_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_network(build_network(CONFIG, seed=0), None, tmp_path)
    other = ModelConfig(factory=CONFIG.factory, args={"channels": 8, "blocks": 1}, mean=(0.3,), std=(0.25,))
    with pytest.raises(ModelError, match="has shape"):
        load_network(other, NetworkArtifact(tmp_path), seed=0)


@pytest.mark.parametrize(("shape", "classes", "says"), [((3, 8, 8), 10, "does not take"), ((1, 8, 8), 4, r"\(2, 10\)")])
def test_a_network_that_does_not_fit_the_data(shape: tuple[int, int, int], classes: int, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        check_network(build_network(ModelConfig(factory=CONFIG.factory, args=CONFIG.args), 0), shape, classes)
