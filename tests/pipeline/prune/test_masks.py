"""Masks: the share that goes, the pattern of four, what stays dense, and zeros that stay zeros in training."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from devices.errors import ModelError, RecipeError
from pipeline.prune.criteria.base import CriterionInputs
from pipeline.prune.masks import Masks, apply_masks, mask_two_of_four, mask_weights
from tests.pipeline.prune.networks import build, conv, images

CRITERIA = ("l1", "l2", "lamp", "taylor", "hessian", "random")


def cross_entropy(network: nn.Module, batch: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The usual loss."""
    return functional.cross_entropy(network(batch), targets)


def inputs_of(network: nn.Module, seed: int = 0) -> CriterionInputs:
    """Everything that any criterion needs."""
    return CriterionInputs(network, (), ((images(8, seed=1), torch.arange(8) % 5),), cross_entropy, seed)


def weights_of(network: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters by name."""
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("name", ["residual", "attending"])
def test_the_share_goes_and_nothing_else_changes(name: str, criterion: str) -> None:
    network = build(name)
    before = copy.deepcopy(network.state_dict())
    masks = mask_weights(inputs_of(network), 0.7, criterion, "global")
    total = sum(mask.numel() for mask in masks.keep.values())
    assert sum(int((~mask).sum()) for mask in masks.keep.values()) == round(0.7 * total)
    assert masks.zeros_share == pytest.approx(0.7, abs=1 / total)
    masked = apply_masks(network, masks)
    for key, tensor in masked.state_dict().items():
        keep = masks.keep.get(key, torch.ones((), dtype=torch.bool))
        assert torch.equal(tensor, torch.where(keep, before[key], 0))
        assert torch.equal(network.state_dict()[key], before[key])
    assert masked(images(3)).isfinite().all()


def test_what_goes_is_smallest_over_all_layers_or_within_each() -> None:
    weights = weights_of(build("residual"))
    everywhere = mask_weights(inputs_of(build("residual")), 0.5, "l1", "global").keep
    kept = torch.cat([weights[name][mask].abs() for name, mask in everywhere.items()])
    gone = torch.cat([weights[name][~mask].abs() for name, mask in everywhere.items()])
    assert gone.max() <= kept.min()
    shares = [mask.float().mean().item() for mask in everywhere.values()]
    assert max(shares) - min(shares) > 0.1
    for name, mask in mask_weights(inputs_of(build("residual")), 0.5, "l1", "local").keep.items():
        assert int((~mask).sum()) == round(0.5 * mask.numel())
        assert weights[name][~mask].abs().max() <= weights[name][mask].abs().min()


def test_taylor_and_hessian_by_hand() -> None:
    """One layer on x = (1, 2, 3, 4): gradients of the sum are x, products with w are 4, 2, 9, 4."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[4.0, 1.0, 3.0, -1.0]]))
    batch = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 2, 2)
    inputs = CriterionInputs(network, (), ((batch, torch.zeros(1)),), lambda net, x, _: net(x).sum())
    for criterion in ("taylor", "hessian"):
        masks = mask_weights(inputs, 0.75, criterion, "global")
        assert masks.keep["1.weight"].tolist() == [[False, False, True, False]]
        masks = mask_weights(inputs, 0.25, criterion, "global")
        assert masks.keep["1.weight"].tolist() == [[True, False, True, True]]
    assert mask_weights(inputs, 0.5, "l1", "global").keep["1.weight"].tolist() == [[True, False, True, False]]


def test_lamp_spares_small_layers_that_magnitude_empties() -> None:
    """A layer of tiny weights loses all but one by magnitude; its scores by LAMP are those of any other."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 20), nn.ReLU(), nn.Linear(20, 5))
    with torch.no_grad():
        network[3].weight.mul_(1e-3)
    magnitude = mask_weights(inputs_of(network), 0.9, "l1", "global").keep["3.weight"]
    assert magnitude.sum() == 1, "one stays, or nothing would come through"
    assert mask_weights(inputs_of(network), 0.9, "lamp", "global").keep["3.weight"].float().mean() > 0.1


@settings(max_examples=30)
@given(st.floats(0.01, 0.9), st.floats(0.01, 0.9), st.sampled_from(CRITERIA), st.sampled_from(["global", "local"]))
def test_what_is_zero_stays_zero_at_the_next_step(first: float, more: float, criterion: str, scope: str) -> None:
    """A schedule: each step's zeros are among the next one's."""
    if criterion == "lamp":
        scope = "global"
    second = first + (0.95 - first) * more
    once = mask_weights(inputs_of(build("pooled")), first, criterion, scope)
    network = apply_masks(build("pooled"), once)
    # What is left has trained, and any order is possible.
    with torch.no_grad():
        for name, keep in once.keep.items():
            weight = network.get_parameter(name)
            weight.copy_(weight.flip(0).masked_fill(weight.flip(0) == 0, 0.01) * keep)
    twice = mask_weights(inputs_of(network, seed=1), second, criterion, scope)
    assert all(not bool((twice.keep[name] & ~keep).any()) for name, keep in once.keep.items())
    assert twice.zeros_share == pytest.approx(second, abs=0.02)


def test_what_is_no_layers_weight_stays_dense_and_is_named() -> None:
    network = build("moved")
    network.register_parameter("table", nn.Parameter(torch.ones(3, 4)))
    masks = mask_weights(inputs_of(network), 0.5, "l1", "global", ("head.*",))
    assert set(masks.keep) == {"first.weight", "mix.weight"}
    assert {item.tensor: item.reason for item in masks.dense} == {
        "head.weight": "the recipe ignores 'head.*'",
        "table": "it is no convolution's or linear layer's",
    }
    assert "layer.self_attn.in_proj_weight" in mask_weights(inputs_of(build("attending")), 0.5, "l1", "local").keep


@pytest.mark.parametrize(
    ("changes", "where", "says"),
    [
        ({"criterion": "fpgm"}, "prune.criterion", "'fpgm' does not rank single weights"),
        ({"criterion": "bn_scale"}, "prune.criterion", "'bn_scale' does not rank single weights"),
        ({"criterion": "activation"}, "prune.criterion", "does not rank single weights"),
        ({"criterion": "lamp", "scope": "local"}, "prune.scope", "does not hold for single weights by 'lamp'"),
        ({"scope": "allocated"}, "prune.scope", "is 'allocated'"),
        ({"ignore": ("heads.*",)}, "prune.ignore", "'heads.*' matches no parameter. There are 0.bias"),
        ({"sparsity": 0.9999}, "prune.target_sparsity", "one weight of each of 4 tensors stays"),
        ({"sparsity": 0.99, "scope": "local"}, "prune.target_sparsity", "one weight of '10.weight' stays"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], where: str, says: str) -> None:
    asked: dict[str, Any] = {"sparsity": 0.5, "criterion": "l1", "scope": "global", "ignore": ()} | changes
    with pytest.raises(RecipeError) as said:
        mask_weights(inputs_of(build("pooled")), **asked)
    assert said.value.where == where
    assert says in str(said.value)


@pytest.mark.parametrize("criterion", ["taylor", "hessian"])
def test_gradients_need_images(criterion: str) -> None:
    with pytest.raises(RecipeError, match=f"^prune.criterion: '{criterion}' needs training images"):
        mask_weights(CriterionInputs(build("pooled")), 0.5, criterion, "global")


def test_two_of_four_by_hand() -> None:
    """Along the inputs; of equal magnitudes the first stay."""
    network = nn.Sequential(nn.Conv2d(8, 4, (1, 2), bias=False), nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 2))
    with torch.no_grad():
        network[0].weight.zero_()
        network[0].weight[1, :, 0, 1] = torch.tensor([1.0, -4.0, 3.0, 2.0, 5.0, 5.0, -5.0, 5.0])
        network[2].weight[0] = torch.tensor([-0.4, 0.1, 0.2, 0.3])
    masks = mask_two_of_four(network, torch.rand(1, 8, 1, 2))
    assert masks.keep["0.weight"][1, :, 0, 1].tolist() == [False, True, True, False, True, True, False, False]
    assert masks.keep["2.weight"][0].tolist() == [True, False, False, True]
    assert {item.tensor: item.reason for item in masks.dense} == {"3.weight": "it is the layer that answers"}


@pytest.mark.parametrize(
    "name",
    ["attending", "cifar_resnet", "grouped", "mobile", "normed", "pooled", "residual", "sliced", "squeezed", "tied"],
)
def test_every_four_in_a_row_keep_their_two_largest(name: str) -> None:
    network = build(name)
    masks = mask_two_of_four(network, images(1))
    named = weights_of(network)
    parameters = {key: tensor for key, tensor in named.items() if tensor.ndim >= 2}
    assert set(masks.keep) | {item.tensor for item in masks.dense} == set(parameters)
    assert not set(masks.keep) & {item.tensor for item in masks.dense}
    for key, keep in masks.keep.items():
        rows = named[key].movedim(1, -1).reshape(-1, 4)
        kept = keep.movedim(1, -1).reshape(-1, 4)
        assert (kept.sum(dim=1) == 2).all()
        highest = rows.abs().sort(dim=1, descending=True).values[:, :2].sum(dim=1)
        assert torch.allclose((rows.abs() * kept).sum(dim=1), highest)
    assert masks.zeros_share == 0.5
    assert apply_masks(network, masks)(images(2)).isfinite().all()


def test_what_cannot_be_two_of_four_is_named_with_the_reason() -> None:
    body = nn.Sequential(
        conv(3, 8), conv(8, 8, groups=8), conv(8, 6), conv(6, 8), nn.ConvTranspose2d(8, 8, 2), nn.Flatten(),
        nn.Linear(648, 8), nn.Linear(8, 4), nn.Linear(4, 4),
    )  # fmt: skip
    masks = mask_two_of_four(body, images(1), ("7.*",))
    assert set(masks.keep) == {"2.0.weight", "6.weight"}
    assert {item.tensor: item.reason for item in masks.dense} == {
        "0.0.weight": "its 3 inputs are no multiple of four",
        "1.0.weight": "it is a depthwise convolution's",
        "3.0.weight": "its 6 inputs are no multiple of four",
        "4.weight": "it is a transposed convolution's",
        "7.weight": "the recipe ignores '7.*'",
        "8.weight": "it is the layer that answers",
    }
    with pytest.raises(RecipeError, match=r"no layer can have 2:4 weights\. Dense are 0\.weight: its 3 inputs"):
        mask_two_of_four(nn.Sequential(nn.Conv2d(3, 5, 1)), images(1))
    with pytest.raises(ModelError, match="does not run"):
        mask_two_of_four(nn.Sequential(nn.Conv2d(4, 5, 1)), images(1))


def test_a_mask_of_another_network_is_refused() -> None:
    network = build("residual")
    for keep in ({"lost.weight": torch.ones(2, dtype=torch.bool)}, {"stem.weight": torch.ones(2, dtype=torch.bool)}):
        with pytest.raises(ModelError, match=r"^mask: is for '\w+.weight' of shape \(2,\), which the network lacks"):
            apply_masks(network, Masks(keep, ()))


def test_layers_with_one_matrix_are_masked_once() -> None:
    network = apply_masks(build("tied"), mask_weights(inputs_of(build("tied")), 0.5, "l1", "local"))
    assert network.second.weight is network.first.weight
    assert int((network.first.weight == 0).sum()) == 32
