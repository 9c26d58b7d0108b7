"""Group magnitude by hand, and the laws that a score keeps."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pipeline.prune.groups import Group, find_groups
from pipeline.prune.magnitude import group_magnitude
from pipeline.prune.trace import trace_network
from tests.pipeline.prune.networks import NETWORKS, build, images


def groups_of(network: nn.Module) -> tuple[Group, ...]:
    """Groups of a network that takes (N, 3, 8, 8)."""
    return find_groups(network, trace_network(network, images(1)), images(1), ()).groups


def test_by_hand() -> None:
    """Rows of the first matrix and columns of the second; neither bias nor normalization counts."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 5)).eval()
    with torch.no_grad():
        network[1].weight.zero_()
        network[4].weight.zero_()
        network[1].weight[0, :3] = 1.0
        network[4].weight[2, 0] = 1.0
        network[1].weight[1, 7] = 6.0
        network[1].bias.fill_(100)
        network[2].weight.fill_(100)
    (group,) = groups_of(network)
    # sqrt(3 + 1) = 2 and 6, divided by their mean 4.
    assert group_magnitude(network, group).tolist() == pytest.approx([0.5, 1.5])


@pytest.mark.parametrize("name", NETWORKS)
def test_scores_are_positive_with_a_mean_of_one_and_do_not_depend_on_scale(name: str) -> None:
    network = build(name)
    larger = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in larger.parameters():
            parameter.mul_(7)
    for group in groups_of(network):
        scores = group_magnitude(network, group)
        assert scores.shape == (group.width,)
        assert (scores > 0).all()
        assert scores.mean().item() == pytest.approx(1)
        assert torch.allclose(group_magnitude(larger, group), scores)


def test_a_unit_that_carries_nothing_goes_first() -> None:
    network = build("mobile")
    for group in groups_of(network):
        silent = copy.deepcopy(network)
        parameters = dict(silent.named_parameters())
        with torch.no_grad():
            for item in group.units[1].slices:
                if item.tensor in parameters:
                    parameters[item.tensor].select(item.dim, item.index).zero_()
        scores = group_magnitude(silent, group)
        assert scores.argmin() == 1
        assert scores[1] == 0


def test_all_zero_weights_give_zeros_and_not_nan() -> None:
    network = build("pooled")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert all(group_magnitude(network, group).eq(0).all() for group in groups_of(network))
