"""Pruning as a whole: the laws that hold for any network, on networks of many kinds."""

from __future__ import annotations

import copy
import json
import math
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from devices.errors import ModelError, RecipeError
from exporters.onnx_export import export_onnx
from exporters.parity import ParityLimits
from pipeline.prune.allocate import Ranked, allocate, snap_choices
from pipeline.prune.groups import Group, Unit, find_groups, plan_for
from pipeline.prune.macs import macs_counter
from pipeline.prune.magnitude import group_magnitude
from pipeline.prune.plan import PruningPlan, apply_plan
from pipeline.prune.stage import count_macs, prune_channels
from pipeline.prune.trace import trace_network
from pipeline.recipe import PruneConfig
from pipeline.zoo import cifar_resnet, mlp, residual_cnn

IMAGE = (1, 3, 16, 16)


def conv(before: int, after: int, groups: int = 1) -> nn.Sequential:
    """Convolution, normalization and ReLU."""
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, groups=groups, bias=False), nn.BatchNorm2d(after), nn.ReLU()
    )


class Mobile(nn.Module):
    """Depthwise between two pointwise convolutions, with a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.expand = nn.Sequential(nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6())
        self.depthwise = conv(24, 24, groups=24)
        self.project = nn.Sequential(nn.Conv2d(24, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.project(self.depthwise(self.expand(x)))
        return self.head(x.mean((2, 3)))


class Joined(nn.Module):
    """Two branches joined along the channels, pooled and flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.after = conv(3, 6), conv(3, 10), conv(16, 8)
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.left(x), self.right(x)], dim=1)
        return self.head(functional.max_pool2d(self.after(x), 4).flatten(1))


class Unusual(nn.Module):
    """A transposed convolution and a grouped one in the middle: their channels stay, the others may go."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(3, 8), conv(8, 8, groups=2)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.third, self.fourth = conv(6, 12), conv(12, 4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(self.second(self.first(x)))
        return self.head(self.fourth(self.third(x)).mean((2, 3)))


class Classic(nn.Module):
    """The usual head: adaptive pooling to one pixel, flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, 8), nn.MaxPool2d(2), conv(8, 12), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


class Tied(nn.Module):
    """One convolution used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice, self.head = conv(3, 8), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.twice(functional.relu(self.twice(self.stem(x)))))
        return self.head(x.mean((2, 3)))


NETWORKS = OrderedDict(
    residual=lambda: residual_cnn(in_channels=3, channels=16, classes=5),
    cifar_resnet=lambda: cifar_resnet(8, classes=5),
    mobile=Mobile,
    joined=Joined,
    unusual=Unusual,
    tied=Tied,
    classic=Classic,
)


def made(name: str) -> nn.Module:
    """The network in inference, with BatchNorm statistics that are not those of a new one."""
    torch.manual_seed(3)
    network: nn.Module = NETWORKS[name]()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    return network.eval()


def image(shape: tuple[int, ...] = IMAGE) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def groups_of(network: nn.Module, ignore: tuple[str, ...] = ()) -> tuple[Group, ...]:
    return find_groups(network, trace_network(network, image()), image(), ignore).groups


def without(network: nn.Module, units: list[Unit]) -> nn.Module:
    smaller = copy.deepcopy(network)
    apply_plan(smaller, plan_for(network, units))
    return smaller


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_removing_equals_zeroing(name: str) -> None:
    """The law that proves every index: a channel whose every slice is zero is a channel that is not there."""
    network, images = made(name), image((4, *IMAGE[1:]))
    groups = groups_of(network)
    assert groups
    for group in groups:
        units = list(group.units[: group.width // 2])
        zeroed = copy.deepcopy(network)
        tensors = dict(zeroed.named_parameters()) | dict(zeroed.named_buffers())
        for unit in units:
            for item in unit.slices:
                if not item.tensor.endswith("running_var"):
                    tensors[item.tensor].select(item.dim, item.index).zero_()
        smaller = without(network, units)
        assert torch.allclose(smaller(images), zeroed(images), atol=1e-5), group.name
        assert not torch.allclose(smaller(images), network(images), atol=1e-5), group.name


def test_groups_of_known_networks() -> None:
    """Widths by first layer: what is coupled is one group, what cannot be followed is none."""
    widths = {name: {group.name: group.width for group in groups_of(made(name))} for name in NETWORKS}
    assert widths["residual"] == {"blocks.0.conv1.weight": 16, "blocks.1.conv1.weight": 16, "blocks.0.conv2.weight": 16}
    # The stream of the first stage goes on as the middle of the later ones; what is padded there stays.
    assert widths["cifar_resnet"]["conv1.weight"] == 16
    assert widths["cifar_resnet"]["layer3.0.conv1.weight"] == 64
    # Expansion and depthwise convolution are one group; stem, projection and head another.
    assert widths["mobile"] == {"depthwise.0.weight": 24, "head.weight": 8} or widths["mobile"] == {
        "depthwise.0.weight": 24,
        "project.0.weight": 8,
    }
    assert widths["joined"] == {"left.0.weight": 6, "right.0.weight": 10, "after.0.weight": 8}
    assert widths["unusual"] == {"third.0.weight": 12, "fourth.0.weight": 4}
    assert widths["classic"] == {"body.0.0.weight": 8, "body.2.0.weight": 12}
    assert widths["tied"] == {"stem.0.weight": 8} or widths["tied"] == {"twice.weight": 8}


def test_what_is_left_out_is_named_with_the_reason() -> None:
    network = made("unusual")
    left = {
        item.tensor: item.reason for item in find_groups(network, trace_network(network, image()), image(), ()).left_out
    }
    assert "grouped" in left["second.0.weight"]
    assert "grouped" in left["first.0.weight"]
    assert "convolution" in left["up.weight"]
    assert "output" in left["head.weight"]


def test_an_unknown_operation_is_left_out_by_name() -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = conv(3, 8), conv(8, 8), nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.second(torch.sort(self.first(x), dim=1).values)
            return self.head(x.mean((2, 3)))

    network = Sorted().eval()
    found = find_groups(network, trace_network(network, image()), image(), ())
    assert {group.name for group in found.groups} == {"head.weight"} or {g.name for g in found.groups} == {
        "second.0.weight"
    }
    assert any("'sort' is not followed" in item.reason for item in found.left_out if item.tensor == "first.0.weight")


@pytest.mark.parametrize("name", NETWORKS)
def test_pruned_networks_train_and_export(name: str, tmp_path: Path) -> None:
    """All groups halved: the network runs in training, gradients reach every parameter, and ONNX agrees."""
    network = made(name)
    smaller = without(network, [unit for group in groups_of(network) for unit in group.units[: group.width // 2]])
    smaller.train()
    smaller(image((4, *IMAGE[1:]))).square().sum().backward()
    assert all(parameter.grad is not None for parameter in smaller.parameters())
    smaller.eval()
    samples = image((8, *IMAGE[1:])).numpy()
    parity = export_onnx(
        smaller, samples, 20, tmp_path / "m.onnx", ParityLimits(min_sqnr_db=60, min_agreement=1), threads=1
    )
    assert parity.max_abs_diff < 1e-4


@pytest.mark.parametrize("name", ["residual", "cifar_resnet", "mobile", "joined"])
def test_counted_macs_are_those_of_the_exported_graph(name: str, tmp_path: Path) -> None:
    """Counted from the ONNX file, an independent way: kernel elements times positions."""
    network = made(name)
    smaller = without(network, [unit for group in groups_of(network) for unit in group.units[: group.width // 2]])
    for form in (network, smaller):
        export_onnx(
            form,
            image((8, *IMAGE[1:])).numpy(),
            20,
            tmp_path / "m.onnx",
            ParityLimits(min_sqnr_db=60, min_agreement=1),
            1,
        )
        assert count_macs(form, image()) == macs_of_onnx(tmp_path / "m.onnx")


def macs_of_onnx(path: Path) -> int:
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    sizes = {item.name: list(item.dims) for item in model.graph.initializer}
    shapes = {
        item.name: [dim.dim_value for dim in item.type.tensor_type.shape.dim]
        for item in [*model.graph.value_info, *model.graph.output]
    }
    total = 0
    for node in model.graph.node:
        if node.op_type == "Conv":
            total += int(np.prod(sizes[node.input[1]]) * np.prod(shapes[node.output[0]][2:]))
        elif node.op_type in ("Gemm", "MatMul"):
            total += int(np.prod(sizes[node.input[1]]))
    return total


def test_removing_nothing_changes_nothing() -> None:
    network = made("residual")
    assert plan_for(network, []).cuts == ()
    assert torch.equal(without(network, [])(image()), network(image()))


def test_the_order_of_units_does_not_matter() -> None:
    network = made("residual")
    units = [unit for group in groups_of(network) for unit in group.units[::2]]
    assert plan_for(network, units) == plan_for(network, units[::-1])


def test_a_plan_comes_back_from_json_and_fits_its_factory_only() -> None:
    network = made("residual")
    plan = plan_for(network, list(groups_of(network)[0].units[:5]))
    again = PruningPlan.from_dict(json.loads(json.dumps(plan.as_dict())), "plan.json")
    one, two = copy.deepcopy(network), copy.deepcopy(network)
    apply_plan(one, plan)
    apply_plan(two, again)
    assert torch.equal(one(image()), two(image()))
    with pytest.raises(ModelError, match="should be 16"):
        apply_plan(one, plan)
    with pytest.raises(ModelError, match="which the network lacks"):
        apply_plan(made("mobile"), plan)


@pytest.mark.parametrize(
    "change",
    [{"keep": []}, {"keep": [1, 0]}, {"keep": [0, 99]}, {"keep": [-1]}, {"keep": "all"}, {"dim": "0"}, {"tensor": 3}],
    ids=str,
)
def test_a_malformed_plan_is_refused(change: dict[str, object]) -> None:
    cut = {"tensor": "a", "dim": 0, "size": 4, "keep": [0, 1]} | change
    with pytest.raises(ModelError, match=r"plan\.json"):
        PruningPlan.from_dict({"format": "espalier-plan/1", "cuts": [cut]}, "plan.json")


@given(st.integers(2, 300), st.sampled_from([1, 4, 8, 16, 32]), st.integers(1, 64))
def test_snapped_widths(width: int, step: int, least: int) -> None:
    choices = snap_choices(width, step, least)
    assert choices[-1] == width
    assert list(choices) == sorted(set(choices))
    assert all(choice >= least for choice in choices[:-1])
    if width >= 2 * step:
        assert all(choice % step == 0 for choice in choices[:-1])


RESIDUAL = made("residual")
TRACE = trace_network(RESIDUAL, image())
GROUPS = find_groups(RESIDUAL, TRACE, image(), ()).groups
RANKED = [Ranked(group, group_magnitude(RESIDUAL, group).numpy()) for group in GROUPS]


@settings(max_examples=40)
@given(st.floats(0.12, 0.99), st.sampled_from(["global", "local"]), st.sampled_from([1, 4, 8]))
def test_a_target_is_met_on_the_steps(target: float, scope: str, step: int) -> None:
    """At most the target remains, and every width is one that the device runs well."""
    count = macs_counter(TRACE)
    smallest = [item.group.width - snap_choices(item.group.width, step, 1)[0] for item in RANKED]
    least = count([unit for item, gone in zip(RANKED, smallest, strict=True) for unit in item.lowest(gone)]) / count([])
    if least > target:
        with pytest.raises(RecipeError, match=f"{math.ceil(least * 1000) / 1000:g} of the MACs remain"):
            allocate(RANKED, scope, target, step, 1, count)
        return
    removed = allocate(RANKED, scope, target, step, 1, count)
    assert count(removed) <= target * count([])
    gone = {unit.label for unit in removed}
    for group in GROUPS:
        kept = sum(unit.label not in gone for unit in group.units)
        assert kept in snap_choices(group.width, step, 1)


def test_local_keeps_the_same_share_and_global_the_largest() -> None:
    """Where one group carries far more weight, global takes from the others; local takes from all alike."""
    count = macs_counter(TRACE)
    ranked = [Ranked(item.group, item.scores + (100 if index == 0 else 0)) for index, item in enumerate(RANKED)]

    def kept(scope: str) -> list[int]:
        gone = {unit.label for unit in allocate(ranked, scope, 0.5, 1, 1, count)}
        return [sum(unit.label not in gone for unit in item.group.units) for item in ranked]

    assert kept("global")[0] == 16
    assert len(set(kept("local"))) == 1


def test_least_important_channels_go_first() -> None:
    network = made("residual")
    small = 5
    with torch.no_grad():
        network.blocks[0].conv1.weight[small] *= 1e-3  # type: ignore[index, union-attr]
        network.blocks[0].conv2.weight[:, small] *= 1e-3  # type: ignore[index, union-attr]
    (group,) = [group for group in groups_of(network) if group.name == "blocks.0.conv1.weight"]
    scores = group_magnitude(network, group).numpy()
    assert int(scores.argmin()) == small
    assert scores.mean() == pytest.approx(1)


def test_ignored_layers_stay(tmp_path: Path) -> None:
    config = PruneConfig(target_macs=0.7, ignore=("blocks.0.conv1.*",))
    result = prune_channels(config, made("residual"), image(), 4, tmp_path)
    layers = {row["name"]: row for row in result.metrics["layers"]}  # type: ignore[attr-defined]
    assert layers["blocks.0.conv1"]["after"] == 16
    assert layers["blocks.1.conv1"]["after"] < 16
    with pytest.raises(RecipeError, match=r"'blocks\.7\.\*' matches no parameter"):
        prune_channels(PruneConfig(target_macs=0.7, ignore=("blocks.7.*",)), made("residual"), image(), 4, tmp_path)


def test_a_network_that_cannot_be_pruned_says_why(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5)).eval()
    with pytest.raises(ModelError, match="nothing in this network can be pruned: it is the network's output"):
        prune_channels(PruneConfig(target_macs=0.5), network, image(), 4, tmp_path)


def test_the_mlp_is_the_one_asked_for() -> None:
    inner = mlp()[1]  # type: ignore[index]
    assert [type(layer) for layer in inner] == [nn.Linear, nn.Linear]
    assert [tuple(layer.weight.shape) for layer in inner] == [(10, 64), (2, 10)]
