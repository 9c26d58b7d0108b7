"""Learned scores: gates close what pruning cuts, a closed one can open again, and the loss decides which stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from devices.errors import DeviceError, ModelError, RecipeError, StorageError
from devices.stage import no_progress
from pipeline.data import Split
from pipeline.prune.criteria import learned
from pipeline.prune.criteria.base import CriterionInputs
from pipeline.prune.learned.gated import straight_through
from pipeline.prune.learned.stage import SCORES_FILE, ScoresArtifact, learn_scores, read_scores
from pipeline.prune.learned.units import _gated, _readers
from pipeline.prune.pruning import Pruning
from pipeline.recipe import PruneConfig
from pipeline.recipe.prune import LearnedConfig
from tests.pipeline.prune.laws import answers, found, pruned, some
from tests.pipeline.prune.networks import images
from tests.pipeline.prune.parts import prune

FEW = LearnedConfig(epochs=4, batch_size=32, learning_rate=0.1)


class TwoColours(nn.Module):
    """Says how red and how green an image is, by units that weigh little, beside units that weigh much and say
    nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1, bias=False)
        self.head = nn.Linear(8, 2, bias=False)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.head.weight.zero_()
            self.conv.weight[0, 0], self.conv.weight[1, 1] = 0.5, 0.5
            self.head.weight[0, 0], self.head.weight[1, 1] = 4.0, 4.0
            # Blue, which is noise, at full weight into both answers.
            self.conv.weight[2:, 2] = 3.0
            self.head.weight[:, 2:] = torch.tensor([3.0, -3.0, 3.0, -3.0, 3.0, -3.0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.conv(x).mean(dim=(2, 3)))
        return found


def colours() -> Split:
    """Images more red than green or the other way round; the class says which. Blue is noise."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 256)
    pixels = rng.random((256, 3, 4, 4)).astype(np.float32) * 0.3
    pixels[np.arange(256), labels] += 0.5
    pixels[:, 2] = rng.random((256, 1, 1))
    return Split(pixels, labels)


def loss(network: nn.Module, pixels: torch.Tensor, targets: torch.Tensor, _chance: torch.Generator) -> torch.Tensor:
    """Plain."""
    return functional.cross_entropy(network(pixels), targets)


def pruning(network: nn.Module, channel_step: int = 1) -> Pruning:
    """Of images (1, 3, 4, 4)."""
    return Pruning(network=network, image_NCHW=torch.zeros(1, 3, 4, 4), channel_step=channel_step)


def test_a_gpu_that_is_not_here_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = PruneConfig(target_macs=0.5, criterion="learned", learned=FEW.model_copy(update={"accelerator": "cuda"}))
    with pytest.raises(DeviceError, match="accelerator 'cuda', and PyTorch sees 0 here"):
        learn_scores(config, pruning(TwoColours()), colours(), loss, tmp_path, no_progress)
    assert not list(tmp_path.iterdir())


@given(st.sampled_from(["residual", "mobile", "concat", "pooled", "grouped"]), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_closed_gates_answer_as_the_network_without_the_units(name: str, seed: int) -> None:
    network, _, groups = found(name)
    exact = tuple(group for group in groups if group.exact)
    gone = {unit.label for unit in some(exact, seed)}
    units = [unit for group in exact for unit in group.units if unit.label in gone]
    gates = [torch.tensor([float(unit.label not in gone) for unit in group.units]) for group in exact]
    tensors = _gated(network, [_readers(network, group) for group in exact], gates)
    with torch.no_grad():
        closed = torch.func.functional_call(network, tensors, (images(16, seed=1),))
    torch.testing.assert_close(closed, answers(pruned(network, units)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["residual", "mobile", "concat"])
def test_a_closed_gate_has_a_gradient_and_can_open_again(name: str) -> None:
    network, _, groups = found(name)
    scores = [torch.ones(group.width, requires_grad=True) for group in groups]
    gates = [straight_through(torch.arange(len(item)) % 2 == 0, item) for item in scores]
    assert [gate.detach().tolist() for gate in gates] == [[float(i % 2 == 0) for i in range(len(g))] for g in gates]
    tensors = _gated(network, [_readers(network, group) for group in groups], gates)
    output = torch.func.functional_call(network, tensors, (images(8),))
    functional.cross_entropy(output, torch.arange(8) % 5).backward()
    moved = [item.grad[1::2].abs().sum() > 0 for item in scores if item.grad is not None and len(item) > 1]
    assert len(moved) == sum(len(item) > 1 for item in scores)
    assert all(moved)


def test_channels_that_the_loss_needs_stay_though_others_weigh_more(tmp_path: Path) -> None:
    network, config = TwoColours(), PruneConfig(keep_ratio=0.25, criterion="learned", learned=FEW)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    result = learn_scores(config, pruning(network), colours(), loss, tmp_path, no_progress)
    scores = read_scores(ScoresArtifact(tmp_path))
    assert set(scores["conv.weight"].topk(2).indices.tolist()) == {0, 1}
    losses: Any = result.metrics["loss_by_epoch"]
    assert len(losses) == 4
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(parameter.grad is not None for parameter in network.parameters())
    # By magnitude the noise stays.
    smaller = prune(config, network, torch.zeros(1, 3, 4, 4), 1, tmp_path / "learned", learned=scores)
    assert smaller.metrics["criterion"] == "learned"
    by_norm = PruneConfig(keep_ratio=0.25, criterion="l2")
    prune(by_norm, network, torch.zeros(1, 3, 4, 4), 1, tmp_path / "l2")
    assert right(tmp_path / "learned") > 0.95
    assert right(tmp_path / "l2") < 0.8


def right(folder: Path) -> float:
    """Accuracy of the pruned network in the folder."""
    from safetensors.torch import load_file

    weights, split = load_file(folder / "weights.safetensors"), colours()
    hidden = torch.einsum("nchw,kc->nkhw", torch.from_numpy(split.images), weights["conv.weight"][:, :, 0, 0])
    answer = hidden.mean(dim=(2, 3)) @ weights["head.weight"].T
    return float((answer.argmax(1).numpy() == split.labels).mean())


def test_the_budget_and_the_channel_step_hold_and_equal_seeds_give_equal_scores(tmp_path: Path) -> None:
    network, _, _ = found("residual")
    config = PruneConfig(target_macs=0.5, criterion="learned", learned=LearnedConfig(epochs=1, batch_size=32))
    split = Split(images(64).numpy(), np.arange(64) % 5)
    inputs = Pruning(network=network, image_NCHW=images(1), channel_step=4)
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        torch.manual_seed(len(name))
        (tmp_path / name).mkdir()
        learn_scores(config, replace(inputs, seed=seed), split, loss, tmp_path / name, no_progress)
    one, two, three = ((tmp_path / name / SCORES_FILE).read_bytes() for name in ("one", "two", "three"))
    assert one == two != three
    scores = read_scores(ScoresArtifact(tmp_path / "one"))
    assert all(bool((item >= 0).all()) for item in scores.values())
    metrics: Any = prune(config, network, images(1), 4, tmp_path / "pruned", learned=scores).metrics
    assert metrics["macs_after"] <= 0.5 * metrics["macs_before"]
    assert all(group["width_after"] % 4 == 0 for group in metrics["groups"])


@pytest.mark.parametrize("scope", ["global", "local", "allocated"])
@pytest.mark.parametrize("name", ["residual", "mobile", "concat"])
def test_widths_are_those_of_magnitudes_whatever_was_learned(name: str, scope: Any, tmp_path: Path) -> None:
    network, _, _ = found(name)
    one = LearnedConfig(epochs=2, batch_size=16, learning_rate=0.5)
    config = PruneConfig(target_macs=0.4, scope=scope, criterion="learned", learned=one)
    inputs = Pruning(network=network, image_NCHW=images(1), channel_step=2)
    learn_scores(config, inputs, Split(images(64).numpy(), np.arange(64) % 5), loss, tmp_path, no_progress)
    scores = read_scores(ScoresArtifact(tmp_path))
    by_norm = config.model_copy(update={"criterion": "l2"})
    widths: list[Any] = [
        prune(config, network, images(1), 2, tmp_path / "learned", learned=scores).metrics["groups"],
        prune(by_norm, network, images(1), 2, tmp_path / "l2").metrics["groups"],
    ]
    assert widths[0] == widths[1]
    assert any(group["width_after"] < group["width_before"] for group in widths[0])


@pytest.mark.parametrize("scope", ["global", "local"])
def test_weights_that_the_loss_needs_stay(scope: Any, tmp_path: Path) -> None:
    """Of the first layer's 24 weights two are needed; weights of value zero go first."""
    network = TwoColours()
    steps = LearnedConfig(epochs=10, batch_size=32, learning_rate=0.2)
    config = PruneConfig(
        granularity="weights", target_sparsity=0.9, scope=scope, ignore=("head.*",), criterion="learned", learned=steps
    )
    learn_scores(config, pruning(network), colours(), loss, tmp_path, no_progress)
    scores = read_scores(ScoresArtifact(tmp_path))
    assert {name: item.shape for name, item in scores.items()} == {"conv.weight": (8, 3, 1, 1)}
    prune(config, network, torch.zeros(1, 3, 4, 4), 1, tmp_path / "learned", learned=scores)
    assert right(tmp_path / "learned") > 0.95
    by_norm = config.model_copy(update={"criterion": "l1"})
    prune(by_norm, network, torch.zeros(1, 3, 4, 4), 1, tmp_path / "l1")
    assert right(tmp_path / "l1") < 0.8


def test_what_cannot_be_learned_is_refused() -> None:
    for more, said in (
        ({"granularity": "blocks", "target_macs": 0.5}, "scores channels or weights"),
        ({"target_macs": 0.5, "schedule": "linear", "steps": 2}, "for schedule 'one_shot'"),
        ({"target_latency_ms": 1.0}, "needs widths that are the same each time"),
    ):
        with pytest.raises(ValidationError, match=said):
            PruneConfig(criterion="learned", **more)  # type: ignore[arg-type]


def test_scores_that_are_missing_or_of_another_network_are_an_error(tmp_path: Path) -> None:
    network, _, groups = found("residual")
    with pytest.raises(RecipeError, match="needs scores that were learned, and has none"):
        learned.score_units(CriterionInputs(network, groups))
    with pytest.raises(RecipeError, match="no scores were learned for"):
        learned.score_units(CriterionInputs(network, groups, learned={groups[0].name: torch.ones(1)}))
    with pytest.raises(RecipeError, match="no scores were learned for 'a' of shape"):
        learned.score_weights(CriterionInputs(network, learned={}), {"a": torch.ones(2)})
    (tmp_path / SCORES_FILE).write_bytes(b"no scores")
    with pytest.raises(StorageError, match="cannot be read"):
        read_scores(ScoresArtifact(tmp_path))


def test_a_loss_that_fails_or_diverges_is_an_error(tmp_path: Path) -> None:
    def broken(*_: object) -> torch.Tensor:
        raise ValueError("no such loss")

    def endless(network: nn.Module, pixels: torch.Tensor, *_: object) -> torch.Tensor:
        return network(pixels).sum() * torch.inf

    config = PruneConfig(keep_ratio=0.5, criterion="learned", learned=FEW)
    for wrong, said in ((broken, "no such loss"), (endless, "the loss is (nan|inf|-inf) while scores are learned")):
        with pytest.raises(ModelError, match=said):
            learn_scores(config, pruning(TwoColours()), colours(), wrong, tmp_path, no_progress)
    assert not list(tmp_path.iterdir())
