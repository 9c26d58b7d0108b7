"""Which channels belong together in each small network, and what is left out with which reason."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from devices.errors import ModelError, RecipeError
from pipeline.model import NormalizedNetwork
from pipeline.prune.groups import Grouping, Slice, find_groups, plan_for
from pipeline.prune.trace import trace_network
from pipeline.zoo import cifar_resnet
from tests.pipeline.prune.networks import NETWORKS, build, images

OUTPUT = "it is the network's output"
EXPECTED: dict[str, tuple[dict[str, int], set[tuple[str, int, str]]]] = {
    "residual": (
        {"blocks.0.conv1.weight": 8, "blocks.1.conv1.weight": 8, "blocks.0.conv2.weight": 8},
        {("classifier.weight", 5, OUTPUT)},
    ),
    "cifar_resnet": (
        # Stem, both identity shortcuts and all last convolutions share sixteen; the zeros around them stay.
        {
            "conv1.weight": 16,
            "layer1.0.conv1.weight": 16,
            "layer2.0.conv1.weight": 32,
            "layer3.0.conv1.weight": 64,
        },
        {
            ("layer2.0.conv2.weight", 16, "it is padded with a fixed number of zeros"),
            ("layer3.0.conv2.weight", 48, "it is padded with a fixed number of zeros"),
            ("linear.weight", 5, OUTPUT),
        },
    ),
    "mobile": ({"project.0.weight": 8, "depthwise.0.weight": 16}, {("head.weight", 5, OUTPUT)}),
    "concat": ({"left.0.weight": 4, "right.0.weight": 6, "after.0.weight": 6}, {("head.weight", 5, OUTPUT)}),
    "pooled": ({"0.weight": 6, "3.weight": 4, "8.weight": 7}, {("10.weight", 5, OUTPUT)}),
    "normed": ({"1.weight": 12, "4.weight": 6}, {("6.weight", 5, OUTPUT)}),
    "transposed": ({"first.0.weight": 6, "up.weight": 6, "second.0.weight": 4}, {("head.weight", 5, OUTPUT)}),
    "unknown": (
        {"second.0.weight": 4},
        {("first.0.weight", 6, "operation 'cumsum' is not followed"), ("head.weight", 5, OUTPUT)},
    ),
    "sliced": (
        {"third.0.weight": 4},
        {
            ("first.0.weight", 6, "it is sliced at fixed positions"),
            ("second.0.weight", 4, "it is sliced at fixed positions"),
            ("head.weight", 5, OUTPUT),
        },
    ),
    # The stem, both sides of the shared matrix, and the head's input.
    "tied": ({"first.weight": 8}, {("head.weight", 5, OUTPUT)}),
    "squeezed": ({"excite.weight": 8, "squeeze.weight": 4}, {("head.weight", 5, OUTPUT)}),
    # Equal positions in both groups.
    "grouped": ({"first.0.weight": 4, "grouped.0.weight": 4, "last.0.weight": 4}, {("head.weight", 5, OUTPUT)}),
    "unused": (
        {"first.0.weight": 4},
        {
            ("spare.weight", 6, "no other layer reads it"),
            ("dangling.weight", 6, "no other layer reads it"),
            ("head.weight", 5, OUTPUT),
        },
    ),
    "buffered": (
        {"first.0.weight": 6},
        {("second.0.weight", 4, "it meets a tensor that cannot shrink"), ("head.weight", 5, OUTPUT)},
    ),
    "moved": ({"first.weight": 6, "mix.weight": 4}, {("head.weight", 5, OUTPUT)}),
    # PyTorch's attention takes its width for that of its input: half of it goes with one of two heads.
    "attending": ({"embed.weight": 2, "layer.linear1.weight": 12}, {("head.weight", 5, OUTPUT)}),
}


def grouped(network: nn.Module, *ignore: str) -> Grouping:
    """Groups of a network that takes (N, 3, 8, 8)."""
    return find_groups(network, trace_network(network, images(1)), images(1), ignore)


@pytest.mark.parametrize("name", NETWORKS)
def test_groups_are_as_expected(name: str) -> None:
    found = grouped(build(name))
    groups, left_out = EXPECTED[name]
    assert {group.name: group.width for group in found.groups} == groups
    assert {(item.tensor, item.channels, item.reason) for item in found.left_out} == left_out


def test_a_unit_of_a_residual_path_cuts_all_that_it_runs_through() -> None:
    network = build("residual")
    (path,) = (group for group in grouped(network).groups if group.name == "blocks.0.conv2.weight")
    dims = {(item.tensor, item.dim) for item in path.units[3].slices}
    norms = {
        (f"{norm}.{name}", 0)
        for norm in ("bn", "blocks.0.bn2", "blocks.1.bn2")
        for name in ("weight", "bias", "running_mean", "running_var")
    }
    assert dims == norms | {
        ("stem.weight", 0),
        ("blocks.0.conv1.weight", 1),
        ("blocks.0.conv2.weight", 0),
        ("blocks.1.conv1.weight", 1),
        ("blocks.1.conv2.weight", 0),
        ("classifier.weight", 1),
    }
    assert {item.index for item in path.units[3].slices} == {3}


def test_a_flattened_channel_cuts_all_its_pixels() -> None:
    """Four pixels of channel 2, four in a row, are columns 8 to 11 of the linear layer."""
    group = next(group for group in grouped(build("pooled")).groups if group.name == "3.weight")
    columns = [item.index for item in group.units[2].slices if item.tensor == "8.weight"]
    assert columns == [8, 9, 10, 11]


def test_a_tensor_joined_twice_is_read_twice() -> None:
    group = next(group for group in grouped(build("concat")).groups if group.name == "left.0.weight")
    assert [item for item in group.units[1].slices if item.dim == 1] == [
        Slice("after.0.weight", 1, 1),
        Slice("after.0.weight", 1, 11),
    ]


def test_resnet_20_of_the_recipe() -> None:
    """Nine inner groups, one path of sixteen; only what the padding fixes and the output are left out."""
    network = cifar_resnet(20).eval()
    image = torch.rand(1, 3, 32, 32)
    found = find_groups(network, trace_network(network, image), image, ())
    assert sorted(group.width for group in found.groups) == [16] * 4 + [32] * 3 + [64] * 3
    assert {item.reason for item in found.left_out} == {"it is padded with a fixed number of zeros", OUTPUT}


def test_ignored_channels_stay() -> None:
    network = build("residual")
    found = grouped(network, "blocks.1.*", "stem.weight")
    assert [group.name for group in found.groups] == ["blocks.0.conv1.weight"]
    reasons = {item.tensor: item.reason for item in found.left_out}
    assert reasons["blocks.1.conv1.weight"] == "the recipe ignores 'blocks.1.*'"
    # The path through all shortcuts is the stem's and the second block's alike.
    assert reasons["stem.weight"] == reasons["blocks.0.conv2.weight"] == "the recipe ignores 'blocks.1.*'"


def test_ignoring_leaves_the_trace_as_it_was() -> None:
    network = build("residual")
    trace = trace_network(network, images(1))
    assert not find_groups(network, trace, images(1), ("*",)).groups
    assert len(find_groups(network, trace, images(1), ()).groups) == 3


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    says = r"^prune.ignore: 'stem\*' matches no parameter. There are network.blocks.0.bn1.bias, .* and 12 more.$"
    with pytest.raises(RecipeError, match=says):
        grouped(NormalizedNetwork(build("residual"), (0.5,), (0.5,)), "stem*")


def test_a_normalized_network_has_the_same_groups() -> None:
    found = grouped(NormalizedNetwork(build("mobile"), (0.5, 0.4, 0.3), (0.5, 0.4, 0.3)))
    assert {group.name for group in found.groups} == {"network.project.0.weight", "network.depthwise.0.weight"}


def test_looking_changes_nothing() -> None:
    """Weights, running statistics and the mode of each module are those of before."""
    network = build("mobile").train()
    network.stem.eval()
    modes = {name: module.training for name, module in network.named_modules()}
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    image = images(1)
    grouped(network)
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(image, images(1))
    assert torch.backends.mha.get_fastpath_enabled()


class Stubborn(nn.Sequential):
    """Its code holds a width: it runs as it is and not smaller."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Insists on six channels."""
        x = self[1](self[0](x))
        if x.shape[1] != 6:
            raise ValueError("six channels\nor nothing")
        logits: torch.Tensor = self[4](self[3](self[2](x)))
        return logits


def test_what_fails_its_dry_run_is_left_out_with_its_words() -> None:
    found = grouped(Stubborn().eval())
    assert [group.name for group in found.groups] == ["2.weight"]
    reasons = {item.tensor: item.reason for item in found.left_out}
    assert reasons["0.weight"] == "the network does not run without it: six channels"


class Narrowing(nn.Module):
    """Gives one logit less when its hidden layer is narrower."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(192, 6), nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As many logits as hidden units allow."""
        hidden = functional.relu(self.first(x.flatten(1)))
        logits: torch.Tensor = self.last(hidden)[:, : hidden.shape[1]]
        return logits


def test_what_changes_the_output_is_left_out() -> None:
    found = grouped(Narrowing().eval())
    assert not found.groups
    assert "the network's output changes its shape without it" in {item.reason for item in found.left_out}


class Broken(nn.Module):
    """Returns or raises what it was given."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: torch.Tensor) -> object:
        """The answer, whatever it is."""
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (RuntimeError("mat1 and mat2\ncannot"), "does not run: mat1 and mat2. Match"),
        (KeyError(), "does not run: KeyError. Match"),
        ({"logits": 1}, "returns dict. It must return a tensor"),
    ],
)
def test_a_network_that_cannot_be_traced_is_an_error(answer: object, says: str) -> None:
    with pytest.raises(ModelError, match=f"^model: {says}"):
        trace_network(Broken(answer), images(1))


def test_a_network_that_cannot_be_copied_is_an_error() -> None:
    network = build("pooled")
    network.held = network[0].weight * 2
    with pytest.raises(ModelError, match=r"^model: cannot be copied: Only Tensors created explicitly"):
        grouped(network)


def test_a_dimension_cannot_lose_everything() -> None:
    network = build("pooled")
    group = grouped(network).groups[0]
    with pytest.raises(ModelError, match=r"would remove all of dimension 0 of '0.bias'"):
        plan_for(network, group.units)
