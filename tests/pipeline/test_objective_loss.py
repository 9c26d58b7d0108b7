"""The recipe's objective drives criteria: `objective_loss` gives pruning the loss that the recipe trains with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from devices.errors import RecipeError
from pipeline.attacks.norms import Ball
from pipeline.attacks.pgd import pgd
from pipeline.prune.criteria.base import CriterionInputs
from pipeline.prune.criteria.select import score_groups
from pipeline.prune.groups import find_groups
from pipeline.prune.trace import trace_network
from pipeline.recipe import Recipe, read_recipe
from pipeline.steps.pruning_inputs import objective_loss
from tests.pipeline.recovery.examples import few, fresh, train

RECIPE = Path(__file__).parent.parent.parent / "recipes" / "digits.toml"


def recipe(*overrides: str) -> Recipe:
    """The recipe of the digits, changed."""
    return read_recipe(RECIPE, overrides)


def inputs(network: nn.Module, loss: Any) -> CriterionInputs:
    """Groups of the network, and a batch."""
    split = few(64)
    image = torch.from_numpy(split.images[:1])
    groups = find_groups(network, trace_network(network, image), image, ()).groups
    return CriterionInputs(network, groups, ((torch.from_numpy(split.images), torch.from_numpy(split.labels)),), loss)


@pytest.mark.parametrize("criterion", ["taylor", "hessian"])
def test_an_adversarial_objective_scores_by_gradients_on_attacked_images(criterion: str) -> None:
    network = fresh()
    train(network, split=few(300), epochs=3)

    def on_attacked(net: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        start = 0.1 * (2 * torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) - 1)
        attacked = pgd(net, images, targets, Ball(epsilon=0.1), 2, 0.08, start)
        return functional.cross_entropy(net(attacked), targets)

    def plain(net: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(net(images), targets)

    found = score_groups(criterion, inputs(network, objective_loss(recipe()))).values
    expected = score_groups(criterion, inputs(network, on_attacked)).values
    clean = score_groups(criterion, inputs(network, plain)).values
    for ours, theirs, other in zip(found, expected, clean, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
        assert not np.allclose(ours, other, rtol=0.05)


@pytest.mark.parametrize("kind", ["trades", "nfgsm"])
def test_other_adversaries_drive_them_too(kind: str) -> None:
    network = fresh()
    train(network, split=few(300), epochs=3)
    scores = [
        score_groups("taylor", inputs(network, objective_loss(recipe(f'objective.kind="{name}"')))).values
        for name in ("plain", kind, kind)
    ]
    assert all(np.array_equal(ours, again) for ours, again in zip(*scores[1:], strict=True))
    assert not any(np.allclose(ours, other, rtol=0.05) for ours, other in zip(scores[1], scores[0], strict=True))


def test_learned_scores_and_a_search_exclude_each_other() -> None:
    with pytest.raises(RecipeError, match="'learned' learns at the target's widths"):
        recipe('prune.criterion="learned"', "search.trials=8")
