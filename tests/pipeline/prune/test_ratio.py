"""Widths by ratio and by glob."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from devices.errors import RecipeError
from pipeline.prune.allocate import Ranked, Snapping
from pipeline.prune.channels import prune_channels, rank_groups
from pipeline.prune.groups import Group, Slice, Unit
from pipeline.prune.pruning import Pruning
from pipeline.prune.ratio import shares_of, units_at
from pipeline.recipe import PruneConfig
from pipeline.search.space import group_names
from tests.pipeline.prune.networks import images, initialized

NAMES = ("stem.weight", "blocks.0.conv1.weight", "blocks.1.conv1.weight")


def ranked(width: int) -> list[Ranked]:
    """Three groups; each also cuts a bias and the inputs of what follows."""
    found = []
    for number, name in enumerate(NAMES):
        tensors = (name, 0), (name.replace("weight", "bias"), 0), (f"after.{number}.weight", 1)
        units = tuple(
            Unit(100 * number + index, tuple(Slice(tensor, dim, index) for tensor, dim in tensors))
            for index in range(width)
        )
        found.append(Ranked(Group(name, units), np.random.default_rng(number).random(width)))
    return found


def removed_at(items: Sequence[Ranked], ratio: float | dict[str, float], snapping: Snapping) -> list[Unit]:
    return units_at(items, shares_of(items, ratio), snapping)


def kept(items: Sequence[Ranked], removed: Sequence[Unit]) -> list[int]:
    return [item.group.width - sum(unit in removed for unit in item.group.units) for item in items]


@given(st.integers(2, 64), st.floats(0.01, 1), st.sampled_from([1, 4, 16]), st.integers(1, 8))
def test_every_group_keeps_the_nearest_width_there_is(width: int, ratio: float, step: int, fewest: int) -> None:
    items, snapping = ranked(width), Snapping(channel_step=step, min_channels=fewest)
    removed = removed_at(items, ratio, snapping)
    for item, count in zip(items, kept(items, removed), strict=True):
        choices = snapping.choices(item.group)
        assert count in choices
        assert abs(count - ratio * width) == min(abs(choice - ratio * width) for choice in choices)
        went = {unit.label for unit in removed if unit in item.group.units}
        assert went == {unit.label for unit in item.lowest(width - count)}


def test_a_ratio_of_one_keeps_all() -> None:
    assert removed_at(ranked(24), 1.0, Snapping(channel_step=16)) == []


def test_the_first_glob_that_matches_counts_and_the_rest_stays_whole() -> None:
    items, snapping = ranked(32), Snapping(channel_step=8)
    removed = removed_at(items, {"blocks.1.*": 0.25, "blocks.*": 0.5}, snapping)
    assert kept(items, removed) == [32, 16, 8]
    removed = removed_at(items, {"blocks.*": 0.5, "blocks.1.*": 0.25}, snapping)
    assert kept(items, removed) == [32, 16, 16]


def test_a_glob_names_any_tensor_that_the_group_cuts_along_its_outputs() -> None:
    items, snapping = ranked(32), Snapping(channel_step=8)
    assert kept(items, removed_at(items, {"stem.bias": 0.5}, snapping)) == [16, 32, 32]
    with pytest.raises(RecipeError, match=r"^prune.keep: 'after.\*' matches no group. There are stem.weight, blocks"):
        removed_at(items, {"stem.bias": 0.5, "after.*": 0.5}, snapping)


class Beside(nn.Module):
    """Two branches side by side, and a convolution around both: its weight holds a group of each."""

    def __init__(self) -> None:
        super().__init__()
        self.around, self.left, self.right = (nn.Conv2d(3, width, 1) for width in (24, 16, 8))
        self.head = nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.cat([self.left(x), self.right(x)], 1) + self.around(x)
        logits: torch.Tensor = self.head(torch.relu(y).mean((2, 3)))
        return logits


@pytest.mark.parametrize("steps", [1, 2])
def test_a_search_finds_a_share_for_each_group_of_one_tensor(steps: int) -> None:
    """By the study's names, which are no tensors'; at once and in steps."""
    network = initialized(Beside)
    config = PruneConfig(target_macs=0.5, steps=steps, schedule="linear" if steps > 1 else "one_shot")
    pruning = Pruning(network=network, image_NCHW=images(1), channel_step=1)
    first, second = group_names(rank_groups(config, pruning).ranked)
    assert (first, second) == ("around.weight#1", "around.weight#2")
    for step in range(1, steps + 1):
        change = prune_channels(config, replace(pruning, step=step, dense=network, widths={first: 0.25, second: 0.75}))
        assert [row["width_before"] for row in change.metrics["groups"]] == [16, 8]
        pruning = replace(pruning, network=change.network)
    smaller = pruning.network
    assert [smaller.get_parameter(f"{name}.weight").shape[0] for name in ("around", "left", "right")] == [10, 4, 6]


def test_a_group_without_a_choice_stays_whole_and_one_that_is_gone_is_named() -> None:
    pruning = Pruning(
        network=initialized(Beside), image_NCHW=images(1), channel_step=1, widths={"around.weight#2": 0.5}
    )
    change = prune_channels(PruneConfig(target_macs=0.5), pruning)
    assert [row["width_after"] for row in change.metrics["groups"]] == [16, 4]
    gone = replace(pruning, widths={"around.weight": 0.5})
    with pytest.raises(RecipeError, match=r"^search: the study gives a share to 'around.weight', which can no longer"):
        prune_channels(PruneConfig(target_macs=0.5), gone)
