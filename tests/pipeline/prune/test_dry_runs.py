"""Dry runs: what they find out, which numbers they try, and that they take little memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.prune.groups import Grouping, find_groups
from pipeline.prune.network import copy_structure
from pipeline.prune.trace import Recorder, trace_network
from tests.pipeline.prune.networks import build, images


def grouped(network: nn.Module) -> Grouping:
    """Groups of a network that takes (N, 3, 8, 8)."""
    network.eval()
    return find_groups(network, trace_network(network, images(1)), images(1), ())


def reasons(grouping: Grouping) -> dict[str, str]:
    """Why by tensor."""
    return {item.tensor: item.reason for item in grouping.left_out}


def test_a_structural_copy_shares_tensors_and_no_module() -> None:
    network = build("buffered")
    same = copy_structure(network)
    assert all(one is other for one, other in zip(network.parameters(), same.parameters(), strict=True))
    assert all(one is other for one, other in zip(network.buffers(), same.buffers(), strict=True))
    assert not set(network.modules()) & set(same.modules())


class Products(nn.Module):
    """Convolutions, grouped and transposed too, a linear layer and products of matrices of two and three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.grouped = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.back, self.linear = nn.ConvTranspose2d(8, 4, 2), nn.Linear(16, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Products of products, scaled by their own norm."""
        tokens = self.linear(self.back(self.grouped(self.convolution(x))).flatten(2))
        both = torch.bmm(tokens.transpose(1, 2), tokens)
        y: torch.Tensor = both.mean(0) @ both[0] / both.norm()
        return y


def test_shapes_alone_are_those_of_the_run_itself() -> None:
    network = Products()
    with torch.no_grad(), Recorder() as run:
        answer = network(images(2))
    with torch.no_grad(), Recorder(products=False) as shapes:
        ones = network(images(2))
    assert shapes.operations == run.operations
    assert {"convolution", "addmm", "bmm", "mm"} <= {name for name, _ in run.operations}
    assert ones.shape == answer.shape
    assert ones.isfinite().all()
    assert not torch.equal(ones, answer)


def test_a_product_that_does_not_fit_raises_what_it_always_does() -> None:
    network = nn.Linear(4, 2)
    said = []
    for products in (True, False):
        with pytest.raises(RuntimeError) as raised, torch.no_grad(), Recorder(products=products):
            network(torch.ones(3, 5))
        said.append(str(raised.value))
    assert said[0] == said[1]


class Folding(nn.Module):
    """Folds its neurons by a number: a smaller layer still runs, and mixes them up."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = 4
        self.first, self.last = nn.Linear(192, 12), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A product over the parts of each neuron."""
        x = self.first(x.flatten(1)).view(len(x), self.parts, -1)
        y: torch.Tensor = self.last((x * x.softmax(2)).flatten(1))
        return y


def test_a_number_that_must_change_is_found_by_shapes_though_nothing_fails() -> None:
    grouping = grouped(Folding())
    (group,) = grouping.groups
    assert (group.width, group.kind) == (4, "neurons")
    assert [(item.module, item.attribute, item.per_unit) for item in group.numbers] == [("", "parts", 1)]


class Loud(nn.Module):
    """Says something of a channel of zeros: removing it takes that away."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle = nn.Linear(192, 6), nn.Linear(6, 4)
        self.last = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Every neuron adds one to all that follow."""
        x = self.first(x.flatten(1))
        y: torch.Tensor = self.last(functional.relu(self.middle(x) + torch.cos(x).sum(1, keepdim=True)))
        return y


def test_what_says_something_of_zeros_is_left_out() -> None:
    grouping = grouped(Loud())
    assert [group.name for group in grouping.groups] == ["middle.weight"]
    assert reasons(grouping)["first.weight"] == (
        "the network answers otherwise without it than with zeros in its place"
    )


class Twins(nn.Module):
    """Two layers whose code takes the width of one for that of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(192, 6), nn.Linear(192, 6)
        self.last, self.last2 = nn.Linear(6, 5), nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of both."""
        x = x.flatten(1)
        one, other = functional.relu(self.one(x)), functional.relu(self.other(x))
        y: torch.Tensor = self.last(one) + self.last2(other.view(len(x), one.shape[1]))
        return y


def test_widths_that_the_code_takes_for_equal_go_together() -> None:
    (group,) = grouped(Twins()).groups
    assert group.width == 6
    assert {(item.tensor, item.index) for item in group.units[4].slices if item.dim == 0} == {
        ("one.weight", 4),
        ("one.bias", 4),
        ("other.weight", 4),
        ("other.bias", 4),
    }


class FewerOperations(nn.Module):
    """Leaves something out when it is narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(192, 6), nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """With or without a gate."""
        x = self.first(x.flatten(1))
        y: torch.Tensor = self.last(functional.silu(x) if x.shape[1] > 3 else x)
        return y


def test_a_network_that_computes_something_else_when_small_is_left_out() -> None:
    grouping = grouped(FewerOperations())
    assert not grouping.groups
    assert reasons(grouping)["first.weight"] == "the network computes something else without it: 'addmm'"


class WholeGroups(nn.Module):
    """A convolution in three groups, before code that wants each group as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.grouped = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 3, groups=3)
        self.last = nn.Conv2d(12, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Channels of each group are turned round."""
        x = self.grouped(functional.relu(self.first(x)))
        n, _, height, width = x.shape
        x = x.view(n, -1, 4, height, width).flip(2).view(n, -1, height, width)
        y: torch.Tensor = self.last(x).mean((2, 3))
        return y


def test_whole_groups_go_where_equal_positions_cannot() -> None:
    network = WholeGroups()
    (group,) = grouped(network).groups
    assert group.width == 3
    assert [(item.module, item.attribute, item.per_unit) for item in group.numbers] == [("grouped", "groups", 1)]


@pytest.mark.parametrize("name", ["grouped", "attending"])
def test_looking_for_groups_twice_finds_the_same(name: str) -> None:
    one, other = grouped(build(name)), grouped(build(name))
    assert one.groups == other.groups
    assert one.left_out == other.left_out


class _Tokens(nn.Module):
    """Attention over fewer keys, as in PVTv2 and SegFormer: the convolution sees channels last, and answers so."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 4, stride=4)
        self.reduce = nn.Conv2d(32, 48, 2, stride=2)
        self.widen = nn.Linear(48, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) to (N, 10)."""
        # A width written out: it cannot shrink, so every group is tried alone.
        tokens = functional.layer_norm(self.stem(x).flatten(2).transpose(1, 2), (32,))
        places = tokens.transpose(1, 2).reshape(len(x), -1, x.shape[2] // 4, x.shape[3] // 4)
        fewer = self.reduce(places.contiguous(memory_format=torch.channels_last))
        return self.head(self.widen(fewer.flatten(2).transpose(1, 2)).relu().mean(1))  # type: ignore[no-any-return]


def test_a_group_is_not_refused_for_what_stands_in_for_a_product() -> None:
    """On a CPU its layout is another than the product's own, and then PyTorch takes other operations."""
    torch.manual_seed(0)
    network, image = _Tokens().eval(), torch.rand(1, 3, 32, 32)
    grouping = find_groups(network, trace_network(network, image), image, ())
    assert {group.name for group in grouping.groups} == {"reduce.weight", "widen.weight"}
