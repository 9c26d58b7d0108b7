"""Residual blocks: which are found and why others are not, what skipping does, and the order in which they go."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from devices.errors import ModelError
from exporters.onnx_export import export_onnx
from exporters.parity import ParityLimits
from pipeline.prune.blocks import Skipped, block_name, find_blocks, skip_blocks, without_blocks
from pipeline.prune.depth import rank_blocks
from pipeline.prune.plan import Cut, PruningPlan
from pipeline.prune.replay import apply_plan
from pipeline.zoo import cifar_resnet
from tests.pipeline.prune.networks import Headed, build, conv, images


class Layer(nn.Module):
    """A residual layer over tokens that answers in a tuple, as many transformers do."""

    def __init__(self, width: int, extra: str) -> None:
        super().__init__()
        self.norm, self.mlp, self.extra = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, width)), extra

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None = None) -> tuple[Any, ...]:
        """(N, tokens, width), and what else there is."""
        hidden = hidden + self.mlp(self.norm(hidden))
        return {"alone": (hidden,), "none": (hidden, None), "tensor": (hidden, hidden.mean())}[self.extra]


class Stacked(nn.Module):
    """Layers in a list within an encoder, which reads the first of each tuple; of the last kind, the second too."""

    def __init__(self, extra: str, reads: bool = False) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(24, 8), nn.Linear(8, 5)
        self.layers = nn.ModuleList([Layer(8, extra) for _ in range(3)])
        self.reads = reads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Rows of pixels as tokens."""
        hidden = self.embed(x.transpose(1, 2).reshape(-1, 8, 24))
        for layer in self.layers:
            answer = layer(hidden, mask=None)
            hidden = answer[0] + answer[1] if self.reads else answer[0]
        logits: torch.Tensor = self.head(hidden.mean(dim=1))
        return logits


class Side(nn.Module):
    """One branch plain, one with a path of its own, and a wrapper that adds its input to what it holds."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The body's answer added to its input."""
        result: torch.Tensor = x + self.body(x)
        return result


class Mixed(Headed):
    """Same shapes everywhere: plain convolutions, a squeeze-excite, a block in a block, a row of two, a shared one."""

    def __init__(self) -> None:
        super().__init__(8)
        self.stem = conv(3, 8)
        shared = Side(conv(8, 8))
        self.rows = nn.ModuleDict(
            {
                "plain": nn.Sequential(conv(8, 8), conv(8, 8)),
                "nested": Side(nn.Sequential(Side(conv(8, 8)), nn.Conv2d(8, 8, 1))),
                "wrapped": nn.Sequential(Side(nn.Sequential(conv(8, 8)))),
                "row": nn.Sequential(Side(conv(8, 8)), Side(conv(8, 8))),
                "shared": shared,
                "again": shared,
                "post": nn.Sequential(Side(conv(8, 8)), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
            }
        )

    def body(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for layer in self.rows.values():
            x = layer(x)
        return x


def made(network: nn.Module) -> nn.Module:
    """With random weights that do not depend on other tests, in evaluation."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim >= 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter[0].numel() ** -0.5)
    return network.eval()


def transformer(post: bool) -> nn.Module:
    """PyTorch's own over rows of pixels, with its normalization before or after the sum."""
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, dropout=0.0, norm_first=not post)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    return nn.Sequential(nn.Flatten(1, 2), encoder, nn.Flatten(), nn.Linear(192, 5)).eval()


BATCHES = ((images(8, seed=1), torch.arange(8) % 5), (images(4, seed=2), torch.arange(4)))


def test_a_resnets_blocks_are_found_and_those_that_change_shape_are_named() -> None:
    found = find_blocks(cifar_resnet(20, 5).eval(), images(1))
    assert found.names == ("layer1.0", "layer1.1", "layer1.2", "layer2.1", "layer2.2", "layer3.1", "layer3.2")
    assert {item.name: item.reason for item in found.left_out} == {
        "layer2.0": "it changes (1, 16, 8, 8) to (1, 32, 4, 4)",
        "layer3.0": "it changes (1, 32, 4, 4) to (1, 64, 2, 2)",
    }


def test_only_what_has_a_path_past_its_weights_counts_and_rows_are_taken_apart() -> None:
    network = made(Mixed())
    found = find_blocks(network, images(1))
    assert found.names == (
        "rows.nested",
        "rows.wrapped.0",
        "rows.row.0",
        "rows.row.1",
        "rows.shared",
        "rows.post.0",
    )


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("residual", ("blocks.0", "blocks.1")),
        ("pooled", ()),
        ("grouped", ()),
        ("squeezed", ()),
        ("normed", ()),
        ("tied", ()),
    ],
)
def test_networks_with_and_without_blocks(name: str, blocks: tuple[str, ...]) -> None:
    assert find_blocks(build(name), images(1)).names == blocks


@pytest.mark.parametrize(("extra", "form"), [("alone", "[1]"), ("none", "[2]"), ("tensor", "[2]")])
def test_layers_that_answer_in_tuples_are_skipped_in_their_form(extra: str, form: str) -> None:
    network = made(Stacked(extra))
    found = find_blocks(network, images(1))
    assert found.names == tuple(f"layers.{index}{form}" for index in range(3))
    assert block_name(network, found.names[1]) == "layers.1"
    skipped = copy.deepcopy(network)
    skip_blocks(skipped, found.names)
    with torch.no_grad():
        tokens = network.embed(images(2).transpose(1, 2).reshape(-1, 8, 24))  # type: ignore[operator]
        expected = network.head(tokens.mean(dim=1))  # type: ignore[operator]
    assert torch.equal(skipped(images(2)), expected)


def test_a_layer_whose_other_answers_are_read_is_left_out_with_the_reason() -> None:
    found = find_blocks(made(Stacked("tensor", reads=True)), images(1))
    assert found.names == ()
    assert [item.name for item in found.left_out] == ["layers.0", "layers.1", "layers.2"]
    assert all("does not run without it: unsupported operand" in item.reason for item in found.left_out)


@pytest.mark.parametrize("post", [True, False])
def test_layers_of_pytorchs_own_transformer(post: bool) -> None:
    """Its encoder asks the first layer what it is made of, so that one must stay."""
    network = transformer(post)
    found = find_blocks(network, images(1))
    assert found.names == ("1.layers.1", "1.layers.2")
    (left,) = found.left_out
    assert left.name == "1.layers.0"
    assert "has no attribute 'self_attn'" in left.reason


def test_finding_changes_nothing() -> None:
    network = made(Mixed()).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    find_blocks(network, images(1))
    rank_blocks(network, ("rows.nested", "rows.row.0"), BATCHES)
    rank_blocks(network, ("rows.nested", "rows.row.0"), BATCHES, lambda net, x, _: net(x).sum())
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in network.modules())


def test_skipping_takes_the_parameters_away_and_passes_the_input_on() -> None:
    network = build("residual")
    skipped = copy.deepcopy(network)
    skip_blocks(skipped, ("blocks.0",))
    assert set(network.state_dict()) - set(skipped.state_dict()) == {
        name for name in network.state_dict() if name.startswith("blocks.0.")
    }
    assert isinstance(skipped.blocks[0], Skipped)
    assert not list(skipped.blocks[0].state_dict())
    x = images(3)
    with torch.no_grad():
        stem = functional.relu(network.bn(network.stem(x)))
        expected = network.classifier(network.blocks[1](stem).mean(dim=(2, 3)))
        assert torch.equal(skipped(x), expected)
        before = network(x)
        with without_blocks(network, ("blocks.0",)):
            assert torch.equal(network(x), expected)
        assert torch.equal(network(x), before)


def test_a_block_under_two_names_is_skipped_under_both() -> None:
    network = made(Mixed())
    skip_blocks(network, ("rows.again",))
    assert not any(name.startswith(("rows.shared", "rows.again")) for name in network.state_dict())


@pytest.mark.parametrize("block", ["blocks.7", "blocks.7[2]", "", "blocks.0[0]"])
def test_a_block_that_is_not_there_is_refused_and_nothing_done(block: str) -> None:
    network = build("residual")
    names = list(network.state_dict())
    plan = PruningPlan((Cut("blocks.0.conv1.weight", 0, 8, (0, 1)),), blocks=("blocks.0", block))
    with pytest.raises(ModelError, match=r"^pruning plan: skips '.*', which the network lacks"):
        apply_plan(network, plan)
    assert list(network.state_dict()) == names
    assert network.blocks[0].conv1.weight.shape[0] == 8


def test_a_plan_skips_blocks_and_cuts_and_may_be_replayed() -> None:
    """A block that was narrowed before it went, as two steps in one plan leave it."""
    network = build("residual")
    cuts = (
        Cut("blocks.0.conv1.weight", 0, 8, (0, 1)),
        Cut("blocks.1.conv1.weight", 0, 8, (0, 3, 5)),
        Cut("blocks.1.bn1.weight", 0, 8, (0, 3, 5)),
        Cut("blocks.1.bn1.bias", 0, 8, (0, 3, 5)),
        Cut("blocks.1.bn1.running_mean", 0, 8, (0, 3, 5)),
        Cut("blocks.1.bn1.running_var", 0, 8, (0, 3, 5)),
        Cut("blocks.1.conv2.weight", 1, 8, (0, 3, 5)),
    )
    plan = PruningPlan.from_dict(PruningPlan(cuts, blocks=("blocks.0",)).as_dict(), "plan.json")
    apply_plan(network, plan)
    assert network(images(2)).shape == (2, 5)
    assert network.blocks[1].conv1.out_channels == 3
    again = network.state_dict().keys()
    apply_plan(network, PruningPlan(blocks=("blocks.0",)))
    assert network.state_dict().keys() == again


@pytest.mark.parametrize("opset", [17, 18])
def test_a_network_without_blocks_exports(opset: int, tmp_path: Path) -> None:
    network = made(Stacked("none"))
    skip_blocks(network, ("layers.0[2]", "layers.2[2]"))
    samples = np.asarray(images(8).numpy(), dtype=np.float32)
    limits = ParityLimits(min_sqnr_db=60, min_agreement=1)
    parity = export_onnx(network, samples, opset, tmp_path / "model.onnx", limits, threads=1)
    assert parity.sqnr_db > 60


def test_a_network_that_does_not_run_is_refused() -> None:
    with pytest.raises(ModelError, match="does not run"):
        find_blocks(build("residual"), torch.zeros(1, 2, 8, 8))
