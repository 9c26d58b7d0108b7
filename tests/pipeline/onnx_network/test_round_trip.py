"""From torch to ONNX and back: the same answers, and channels that can go as they could before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from exporters.onnx_export import export_onnx
from exporters.parity import ParityLimits
from exporters.quiet import quiet
from pipeline.model import NetworkArtifact, load_network, save_network
from pipeline.onnx_network import convert_onnx, from_onnx
from pipeline.prune.groups import find_groups, plan_for
from pipeline.prune.plan import PruningPlan
from pipeline.prune.replay import apply_plan
from pipeline.prune.size import count_macs
from pipeline.prune.trace import trace_network
from pipeline.recipe import ModelConfig
from tests.pipeline.onnx_network.parts import NETWORKS, Form, build, export, images, outputs

LIMITS = ParityLimits(min_sqnr_db=60, min_agreement=0)
Exported = Callable[[str, Form], Path]
# The newer exporter takes a second a network: it is tried where it writes something of its own.
FORMS: list[tuple[str, Form]] = [
    *((name, "older") for name in sorted(NETWORKS)),
    *((name, "older fixed") for name in sorted(NETWORKS)),
    ("shuffled", "newer fixed"),
    ("vit", "newer"),
    ("vit", "newer fixed"),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The file of a network, exported once."""
    folder = tmp_path_factory.mktemp("exported")

    def path_of(name: str, form: Form) -> Path:
        path = folder / f"{name}-{form}.onnx"
        return path if path.exists() else export(build(name), path, form)

    return path_of


class Flat(nn.Module):
    """All outputs side by side, for what takes one tensor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, values)."""
        answered = self.network(x)
        return torch.cat([item.flatten(1) for item in (answered if isinstance(answered, tuple) else (answered,))], 1)


def halve(network: nn.Module) -> PruningPlan:
    """A plan that removes half of every group; it is done to the network."""
    image = images(1)
    groups = find_groups(network, trace_network(network, image), image, ()).groups
    assert groups
    plan = plan_for(network, [unit for group in groups for unit in group.units[: group.width // 2]])
    apply_plan(network, plan)
    return plan


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_answers_are_equal_for_any_batch(exported: Exported, name: str, form: Form) -> None:
    dense = build(name)
    network, parity = convert_onnx(exported(name, form))
    assert parity.sqnr_db >= 100
    assert not network.training
    for count in (1, 5):
        expected, answered = outputs(dense, images(count)), outputs(network, images(count))
        assert [item.shape for item in answered] == [item.shape for item in expected]
        for one, other in zip(expected, answered, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_half_of_every_group_goes_and_the_rest_trains(exported: Exported, name: str, form: Form) -> None:
    dense, path = Flat(build(name)), exported(name, form)
    network = Flat(from_onnx(str(path)))
    before = count_macs(network, images(1))
    assert before == count_macs(dense, images(1))
    plan = halve(network)
    halve(dense)
    after = count_macs(network, images(1))
    # What can go from the network that was exported can go from the file, and parameters used outside modules too.
    assert after <= count_macs(dense, images(1)) < before
    again = Flat(from_onnx(str(path)))
    apply_plan(again, PruningPlan.from_dict(plan.as_dict(), "plan"))
    torch.testing.assert_close(again(images(3)), network(images(3)), rtol=0, atol=0)
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    loss = network(images(6)).square().mean()
    loss.backward()
    optimizer.step()
    moved = network.eval()(images(6)).square().mean()
    assert torch.isfinite(moved)
    assert moved != loss


def test_the_tree_has_the_names_and_layers_of_the_network_that_was_exported(exported: Exported) -> None:
    network = from_onnx(str(exported("cifar_resnet", "older")))
    layers = dict(network.named_modules())
    assert isinstance(layers["layer2.0.conv1"], nn.Conv2d)
    assert isinstance(layers["linear"], nn.Linear)
    assert all(parameter.requires_grad for parameter in network.parameters())
    vit = dict(from_onnx(str(exported("vit", "older"))).named_modules())
    assert {"norm1", "query", "wide", "narrow", "head", "gelu_0"} <= vit.keys()
    assert isinstance(vit["norm1"], nn.LayerNorm)
    assert vit["wide"].bias is not None


def test_statistics_of_batch_norm_are_learned_again(tmp_path: Path) -> None:
    """A file exported for training keeps the layer; its momentum is the other way round."""
    dense = build("detector")
    path = tmp_path / "net.onnx"
    with quiet():
        torch.onnx.export(
            dense,
            (images(2),),
            path,
            dynamo=False,
            do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            input_names=["x"],
            dynamic_axes={"x": {0: "batch"}},
            opset_version=17,
        )
    network = from_onnx(str(path))
    norm = network.get_submodule("stem.1")
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.momentum == pytest.approx(0.1)
    assert norm.running_mean is not None
    before = norm.running_mean.clone()
    network.train()(images(8))
    assert not torch.equal(norm.running_mean, before)


@pytest.mark.parametrize(("name", "opset"), [("cifar_resnet", 17), ("windows", 17), ("vit", 20)])
def test_a_pruned_network_is_saved_loaded_and_exported_again(
    tmp_path: Path, exported: Exported, name: str, opset: int
) -> None:
    path = exported(name, "older fixed")
    config = ModelConfig(factory="pipeline.onnx_network:from_onnx", args={"path": str(path)})
    network = from_onnx(str(path))
    plan = halve(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.9)
    save_network(network, plan, tmp_path)
    loaded = load_network(config, NetworkArtifact(tmp_path), seed=0)
    torch.testing.assert_close(loaded(images(3)), network(images(3)), rtol=0, atol=0)
    parity = export_onnx(loaded, images(8).numpy(), opset, tmp_path / "again.onnx", LIMITS, threads=1)
    assert parity.sqnr_db > 60


def test_given_images_are_proved_too(exported: Exported) -> None:
    _, parity = convert_onnx(exported("mobile", "older"), images_NCHW=np.zeros((7, 3, 16, 16), dtype=np.float32))
    assert parity.samples in (3, 7)
    assert parity.border == "ONNX to torch"
