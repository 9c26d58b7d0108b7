"""Which channels, neurons and heads go in networks of many families, and which numbers of modules go with them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.prune.groups import plan_for
from pipeline.prune.plan import Number
from tests.pipeline.prune.families import FAMILIES
from tests.pipeline.prune.laws import found, grouped, pruned
from tests.pipeline.prune.networks import images

# Width and kind by name of a group.
EXPECTED: dict[str, dict[str, tuple[int, str]]] = {
    "densenet": {
        "stem.0.weight": (6, "channels"),
        "layers.0.0.weight": (4, "channels"),
        "layers.1.0.weight": (4, "channels"),
        "layers.2.0.weight": (4, "channels"),
        "transition.0.weight": (12, "channels"),
    },
    "inception": {
        "stem.0.weight": (8, "channels"),
        "one.0.weight": (4, "channels"),
        "three.0.0.weight": (6, "channels"),
        "three.1.0.weight": (4, "channels"),
        "five.0.0.weight": (4, "channels"),
        "five.1.0.weight": (4, "channels"),
        "pool.0.weight": (4, "channels"),
    },
    # Both halves and the branch keep one width.
    "shufflenet": {
        "branch.0.0.weight": (8, "channels"),
        "branch.2.0.weight": (6, "channels"),
        "last.0.weight": (12, "channels"),
    },
    # Equal positions of four groups, before and after the grouped convolution.
    "resnext": {
        "expand.weight": (8, "channels"),
        "reduce.0.weight": (4, "channels"),
        "excite.weight": (4, "channels"),
        "squeeze.weight": (4, "channels"),
    },
    "unet": {
        "down.0.weight": (6, "channels"),
        "deep.0.weight": (4, "channels"),
        "up.weight": (6, "channels"),
        "grouped_up.weight": (2, "channels"),
        "last.0.weight": (4, "channels"),
    },
    # Four channels make one of more pixels.
    "pixels": {
        "first.0.weight": (4, "channels"),
        "second.0.weight": (3, "channels"),
        "third.0.weight": (2, "channels"),
        "last.0.weight": (6, "channels"),
    },
    # The path runs through a GroupNorm of two groups.
    "convnext": {
        "depthwise.weight": (4, "channels"),
        "up.weight": (16, "neurons"),
        "middle.weight": (6, "channels"),
        "last.weight": (8, "channels"),
    },
    "vit": {
        "blocks.0.proj.weight": (8, "channels"),
        "blocks.0.qkv.weight": (4, "heads"),
        "blocks.1.1.weight": (16, "neurons"),
    },
    "swin": {
        "blocks.0.out.weight": (8, "channels"),
        "blocks.0.key.weight": (4, "heads"),
        "blocks.1.up.weight": (6, "neurons"),
        "blocks.1.down.weight": (8, "neurons"),
        "blocks.1.up2.weight": (6, "neurons"),
    },
    # One path, because the code takes the reduced width for the whole one.
    "pvt": {"blocks.0.mix.weight": (8, "channels")},
    "multihead": {"blocks.0.linear1.weight": (12, "neurons"), "blocks.0.linear2.weight": (2, "heads")},
    "standardized": {
        "first.weight": (6, "channels"),
        "second.weight": (8, "channels"),
        "third.parametrizations.weight.original1": (6, "channels"),
        "last.weight": (4, "channels"),
    },
    "twice": {"shared.weight": (6, "channels"), "matrix": (8, "neurons"), "back.0": (6, "neurons")},
    "columns": {"first.0.weight": (4, "channels"), "matrix.weight": (6, "neurons")},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_all_but_the_output_goes(name: str) -> None:
    grouping = grouped(name)[1]
    assert {group.name: (group.width, group.kind) for group in grouping.groups} == EXPECTED[name]
    assert {item.tensor for item in grouping.left_out} == {"head.weight"}


def test_a_batch_norm_that_belongs_to_a_group_is_told() -> None:
    normed = {group.name for group in found("resnext")[2] if group.batch_normed}
    assert normed == {"expand.weight", "reduce.0.weight", "excite.weight"}


@pytest.mark.parametrize(
    ("name", "group", "numbers"),
    [
        ("vit", "blocks.0.qkv.weight", {Number("blocks.0", "num_heads", 4, 3)}),
        # Scores are divided by the depth of a head, and the head's size stays.
        (
            "swin",
            "blocks.0.key.weight",
            {Number("blocks.0", "num_heads", 4, 3), Number("blocks.0", "all_head_size", 8, 6)},
        ),
        (
            "multihead",
            "blocks.0.linear2.weight",
            {Number("blocks.0.self_attn", "num_heads", 2, 1), Number("blocks.0.self_attn", "embed_dim", 8, 4)},
        ),
    ],
)
def test_numbers_of_modules_go_with_the_heads(name: str, group: str, numbers: set[Number]) -> None:
    network, _, groups = found(name)
    (heads,) = (item for item in groups if item.name == group)
    assert set(plan_for(network, heads.units[1:2]).numbers) == numbers


def test_a_head_takes_its_queries_keys_values_and_bias() -> None:
    """The third of four heads: rows 4 and 5 of three matrices, columns 4 and 5 of the next, column 2 of the table."""
    heads = next(group for group in found("swin")[2] if group.kind == "heads")
    slices = {(item.tensor.removeprefix("blocks.0."), item.dim, item.index) for item in heads.units[2].slices}
    rows = {
        (f"{layer}.{part}", 0, row) for layer in ("query", "value") for part in ("weight", "bias") for row in (4, 5)
    }
    keys = {("key.weight", 0, row) for row in (4, 5)}
    assert slices == rows | keys | {("out.weight", 1, 4), ("out.weight", 1, 5), ("table", 1, 2)}


def test_a_group_of_a_convolution_loses_equal_positions() -> None:
    network, _, groups = found("resnext")
    inner = next(group for group in groups if group.name == "reduce.0.weight")
    smaller = pruned(network, inner.units[:1])
    grouped_convolution = smaller.get_submodule("grouped.0")
    assert isinstance(grouped_convolution, nn.Conv2d)
    assert (grouped_convolution.groups, grouped_convolution.in_channels, grouped_convolution.out_channels) == (
        4,
        12,
        16,
    )


def test_modules_that_are_parametrized_come_out_smaller() -> None:
    network, _, groups = found("standardized")
    group = next(group for group in groups if group.name.startswith("third"))
    smaller = pruned(network, group.units[:2])
    third = smaller.get_submodule("third")
    assert isinstance(third, nn.Conv2d)
    assert third.weight.shape == (4, 8, 1, 1)
    assert third.out_channels == 4
    with torch.no_grad():
        assert smaller(images(2)).shape == (2, 5)
