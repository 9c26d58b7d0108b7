"""Attacks stay in their ball and do harm; corruptions distort; sets are crafted as data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from devices.errors import BundleError
from devices.files import read_json
from devices.robustness import read_sets
from devices.stage import no_progress
from pipeline.attacks.corruptions import STRENGTHS, gaussian_blur, gaussian_noise
from pipeline.attacks.craft import craft_sets
from pipeline.attacks.gradient import fgsm, pgd, pgd_restarts, project_linf
from pipeline.datasets.digits import digits
from pipeline.finetune import fit
from pipeline.recipe import FitConfig, ObjectiveConfig, RobustnessConfig
from pipeline.zoo import residual_cnn


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A small network that knows its digits."""
    torch.manual_seed(0)
    network = residual_cnn(channels=8, blocks=1)
    fit(network, digits().train, ObjectiveConfig(), FitConfig(epochs=3), 0, 1, no_progress)
    return network


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    test = digits().test
    return torch.from_numpy(test.batch(slice(0, 64))), torch.from_numpy(test.labels[:64])


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def loss(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.no_grad():
        return float(functional.cross_entropy(network(images), labels))


@given(st.floats(0.001, 1), st.integers(0, 1000))
def test_projection_lands_in_the_ball_and_moves_nothing_within(epsilon: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    clean = torch.rand((3, 1, 4, 4), generator=generator)
    far = clean + 4 * torch.rand(clean.shape, generator=generator) - 2
    near = project_linf(far, clean, epsilon)
    assert float((near - clean).abs().max()) <= epsilon + 1e-6
    assert 0 <= float(near.min()) <= float(near.max()) <= 1
    assert torch.equal(project_linf(near, clean, epsilon), near)


def test_attacks_stay_in_the_ball_and_raise_the_loss(
    trained: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    images, labels = batch
    one = fgsm(trained, images, labels, 0.1)
    many = pgd(trained, images, labels, 0.1, 20, 0.01, seeded())
    for found in (one, many):
        assert float((found - images).abs().max()) <= 0.1 + 1e-6
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert loss(trained, images, labels) < loss(trained, one, labels) < loss(trained, many, labels)


def test_more_is_never_weaker(trained: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    """A larger ε, more steps, more restarts: at least as much loss. The whole range breaks everything."""
    images, labels = batch

    def reached(epsilon: float, steps: int) -> float:
        return loss(trained, pgd(trained, images, labels, epsilon, steps, epsilon / 4, seeded()), labels)

    by_epsilon = [reached(epsilon, 10) for epsilon in (0.02, 0.05, 0.1, 0.2)]
    by_steps = [reached(0.1, steps) for steps in (1, 5, 20)]
    assert by_epsilon == sorted(by_epsilon)
    assert by_steps == sorted(by_steps)
    single = pgd_restarts(trained, images, labels, 0.1, 5, 0.03, 1, seeded())
    several = pgd_restarts(trained, images, labels, 0.1, 5, 0.03, 4, seeded())
    assert loss(trained, several, labels) >= loss(trained, single, labels)
    everything = pgd(trained, images, labels, 1.0, 40, 0.1, seeded())
    assert float((trained(everything).argmax(1) == labels).float().mean()) < 0.05


def test_the_same_seed_gives_the_same_images(trained: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, labels = batch
    first = pgd(trained, images, labels, 0.1, 3, 0.05, seeded())
    assert torch.equal(first, pgd(trained, images, labels, 0.1, 3, 0.05, seeded()))
    other = pgd(trained, images, labels, 0.1, 3, 0.05, torch.Generator().manual_seed(2))
    assert not torch.equal(first, other)
    assert all(parameter.grad is None or not parameter.grad.isnan().any() for parameter in trained.parameters())


def test_corruptions_grow_with_strength_and_stay_in_range() -> None:
    images = digits().test.batch(slice(0, 100))
    for distort in (
        lambda strength: gaussian_noise(images, strength, 5),
        lambda strength: gaussian_blur(images, strength),
    ):
        results = [distort(strength) for strength in STRENGTHS]
        distances = [float(np.abs(result - images).mean()) for result in results]
        assert distances == sorted(distances)
        assert distances[0] > 0
        for result in results:
            assert result.dtype == np.float32
            assert 0 <= result.min() <= result.max() <= 1
            # Eight bits, as from a camera.
            assert np.allclose(result * 255, np.round(result * 255), atol=1e-4)
    assert np.array_equal(gaussian_noise(images, 3, 5), gaussian_noise(images, 3, 5))
    assert not np.array_equal(gaussian_noise(images, 3, 5), gaussian_noise(images, 3, 6))


def test_blur_does_not_cross_images_or_channels() -> None:
    images = np.zeros((2, 2, 8, 8), dtype=np.float32)
    images[0, 0, 4, 4] = 1
    blurred = gaussian_blur(images, 5)
    assert blurred[0, 0].sum() == pytest.approx(1, abs=0.05)
    assert not blurred[0, 1].any()
    assert not blurred[1].any()


def test_crafted_sets_are_read_back_as_they_were(trained: nn.Module, tmp_path: Path) -> None:
    test = digits().test
    config = RobustnessConfig(epsilon=0.1, pgd_steps=5, pgd_step_size=0.03, pgd_restarts=1)
    images, labels = test.batch(slice(0, 40)), test.labels[:40]
    result = craft_sets(config, {"dense": trained}, images, labels, 0, 1, tmp_path, no_progress)
    sets = read_sets(
        read_json(tmp_path / "sets.json", BundleError), lambda name: (tmp_path / name).read_bytes(), "sets"
    )
    names = [info.name for info in sets.infos]
    assert names[:3] == ["clean", "fgsm_dense", "pgd_dense"]
    assert len(names) == 3 + 2 * len(STRENGTHS)
    assert np.array_equal(sets.images["clean"], images)
    assert np.array_equal(sets.labels, labels)
    broken = float((trained(torch.from_numpy(sets.images["pgd_dense"])).argmax(1).numpy() == labels).mean())
    assert broken == result.metrics["pgd_dense_surrogate_accuracy"]
    assert broken < 0.7
