"""A network that ends in a softmax meets every threat as the one that gives logits does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.threats.edge.differential import DifferentialConfig, differential_images
from pipeline.threats.edge.membership import losses_of
from pipeline.threats.edge.physical import PhysicalConfig, make_patch, make_universal
from pipeline.threats.kit.success import answers_of
from pipeline.threats.remove.masking import hidden_neurons
from pipeline.threats.remove.scores import AnpConfig, Clean, RnpConfig, anp_scores, rnp_scores
from pipeline.threats.scan.inversion import invert
from pipeline.threats.scan.search import SearchConfig
from pipeline.threats.scan.sensitivity import SensitivityConfig, sensitivity
from tests.pipeline.threats.conftest import Planted


def softened(planted: Planted) -> nn.Module:
    """The victim with a softmax behind it. Its logits are large: of the probabilities no gradient is left."""
    return nn.Sequential(planted.victim, nn.Softmax(dim=1)).eval()


def test_inversion_finds_the_same_triggers(planted: Planted) -> None:
    config = SearchConfig(steps=25, starts=1)
    own, other = (invert(network, planted.images.images, 10, config) for network in (planted.victim, softened(planted)))
    assert own.norms_px.min() < 64
    torch.testing.assert_close(other.norms_px, own.norms_px, rtol=1e-3, atol=1e-2)


def test_patch_and_universal_perturbation_are_the_same(planted: Planted) -> None:
    config = PhysicalConfig(steps=6)
    for make in (make_patch, make_universal):
        own, other = (make(network, planted.samples, config) for network in (planted.victim, softened(planted)))
        torch.testing.assert_close(other, own, rtol=0, atol=2 / 255)


def test_membership_sees_the_same_losses(planted: Planted) -> None:
    own, other = (losses_of(answers_of(network), planted.judged) for network in (planted.victim, softened(planted)))
    # A probability near 1 has fewer digits left than its logit.
    np.testing.assert_allclose(other, own, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("aim", ["probabilities", "margins"])
def test_differential_images_are_the_same(planted: Planted, aim: str) -> None:
    config = DifferentialConfig(epsilon=0.1, steps=3)
    images, labels = planted.images.images, planted.images.labels
    own, other = (
        differential_images(planted.clean, network, images, labels, config, aim)  # type: ignore[arg-type]
        for network in (planted.victim, softened(planted))
    )
    assert float((own != other).float().mean()) < 0.02


def test_neurons_have_the_same_scores(planted: Planted) -> None:
    clean = Clean(images=planted.images.images, labels=planted.images.labels)
    networks = planted.victim, softened(planted)
    felt = [
        sensitivity(network, planted.images.images, planted.images.labels, SensitivityConfig()) for network in networks
    ]
    assert felt[1].loss == pytest.approx(felt[0].loss, rel=1e-3)
    found = []
    for network in networks:
        neurons, generator = hidden_neurons(network), torch.Generator().manual_seed(0)
        masks = anp_scores(network, neurons, clean, AnpConfig(epochs=2), generator)
        config = RnpConfig(unlearn_epochs=2, recover_epochs=2)
        found.append((masks, rnp_scores(network, neurons, clean, config, generator)))
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(other, own, rtol=0, atol=0.02)
