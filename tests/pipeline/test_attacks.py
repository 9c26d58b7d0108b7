"""Attacks stay in their ball and grow with what they are given; sets are read back by the devices; corruptions hurt."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from devices.clipping import clip_linf
from devices.errors import BundleError, ModelError
from devices.files import read_json
from devices.robustness import INDEX_FILE, read_sets
from devices.stage import no_progress
from pipeline.attacks.corruptions import STRENGTHS, gaussian_blur, gaussian_noise
from pipeline.attacks.craft import craft_sets
from pipeline.attacks.gradient import fgsm, loss_gradient, pgd, pgd_restarts, project_linf
from pipeline.datasets.digits import digits
from pipeline.recipe import FitConfig, ObjectiveConfig, RobustnessConfig
from pipeline.recovery.fit import fit
from pipeline.zoo import residual_cnn

# Clean plus ε rounds in single precision.
ROUNDING = 1e-6
SAMPLES = 100


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Small tensors: a second thread only waits for the first, and longer when others run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def trained() -> nn.Module:
    """A small network that knows the digits; not to be changed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = residual_cnn(channels=8, blocks=1)
    fit(network, digits().train, ObjectiveConfig(), FitConfig(epochs=6, batch_size=32), 0, 1, no_progress)
    return network


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Test images and labels."""
    test = digits().test
    return torch.from_numpy(test.images[:SAMPLES]), torch.from_numpy(test.labels[:SAMPLES])


@torch.no_grad()
def losses(images: torch.Tensor) -> torch.Tensor:
    """Loss of each image, (N,)."""
    return functional.cross_entropy(trained()(images), batch()[1], reduction="none")


@torch.no_grad()
def share_right(images: torch.Tensor) -> float:
    """Accuracy."""
    return float((trained()(images).argmax(1) == batch()[1]).float().mean())


def generator(seed: int = 0) -> torch.Generator:
    """A source of one's own."""
    return torch.Generator().manual_seed(seed)


def inside(found: torch.Tensor, clean: torch.Tensor, epsilon: float) -> bool:
    """Within ε of the clean images and within 0 to 1."""
    return bool((found - clean).abs().max() <= epsilon + ROUNDING and found.min() >= 0 and found.max() <= 1)


PIXELS = st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=6)


@given(PIXELS, st.data(), st.floats(0, 1))
def test_a_projection_is_the_nearest_point_and_nothing_moves_twice(
    pixels: list[float], data: st.DataObject, epsilon: float
) -> None:
    point = torch.tensor(pixels)
    drawn = data.draw(st.lists(st.floats(0, 1, width=32), min_size=len(pixels), max_size=len(pixels)))
    clean = torch.tensor(drawn)
    found = project_linf(point, clean, epsilon)
    assert inside(found, clean, epsilon)
    assert torch.equal(project_linf(found, clean, epsilon), found)
    # By coordinates: the median of the point and the ends of its interval.
    low, high = (clean - epsilon).clamp(0, 1), (clean + epsilon).clamp(0, 1)
    assert torch.equal(found, torch.stack([low, point, high]).median(dim=0).values)
    # What the device clips again is not moved there.
    again = clip_linf(found.numpy(), clean.numpy(), epsilon)
    assert np.abs(again - found.numpy()).max() <= ROUNDING


def test_the_gradient_is_each_image_s_own_and_of_the_images_alone() -> None:
    network, (images, labels) = trained(), batch()
    whole = loss_gradient(network, images, labels)
    assert torch.allclose(whole[3:4], loss_gradient(network, images[3:4], labels[3:4]), atol=1e-6)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not images.requires_grad
    # Against a difference quotient, in double precision.
    one = images[:1].double()
    double = residual_cnn(channels=8, blocks=1).double().eval()
    double.load_state_dict(network.state_dict())
    gradient = loss_gradient(double, one, labels[:1])
    step = torch.zeros_like(one)
    step[0, 0, 3, 4] = 1e-6
    rise = functional.cross_entropy(double(one + step), labels[:1]) - functional.cross_entropy(
        double(one - step), labels[:1]
    )
    assert float(rise.detach()) / 2e-6 == pytest.approx(float(gradient[0, 0, 3, 4]), rel=1e-4, abs=1e-8)


@settings(max_examples=12)
@given(st.floats(0.001, 1), st.integers(1, 3), st.floats(0.001, 1))
def test_attacks_stay_inside(epsilon: float, steps: int, step_size: float) -> None:
    images, labels = batch()
    before = images.clone()
    network = trained()
    for found in (
        fgsm(network, images, labels, epsilon),
        pgd(network, images, labels, epsilon, steps, step_size, generator()),
        pgd_restarts(network, images, labels, epsilon, steps, step_size, 2, generator()),
    ):
        assert inside(found, images, epsilon)
        assert found.dtype == torch.float32
        assert not found.requires_grad
    assert torch.equal(images, before)


def test_more_of_anything_raises_the_loss() -> None:
    """Averaged over images: a larger ball, more steps, an attack rather than noise of the same size."""
    network, (images, labels) = trained(), batch()
    clean = losses(images).mean()
    by_epsilon = [losses(fgsm(network, images, labels, epsilon)).mean() for epsilon in (0.02, 0.05, 0.1)]
    assert clean < by_epsilon[0] < by_epsilon[1] < by_epsilon[2]
    by_steps = [losses(pgd(network, images, labels, 0.1, steps, 0.02, generator())).mean() for steps in (1, 3, 10, 30)]
    assert sorted(by_steps) == by_steps
    assert by_steps[-1] >= by_epsilon[2]
    noise = project_linf(images + 0.1 * (torch.rand(images.shape, generator=generator()) * 2 - 1).sign(), images, 0.1)
    assert losses(noise).mean() < by_epsilon[2]


def test_a_huge_ball_breaks_the_network_fully() -> None:
    network, (images, labels) = trained(), batch()
    assert share_right(images) > 0.9
    assert share_right(pgd(network, images, labels, 1.0, 10, 0.2, generator())) == 0


def test_restarts_are_never_worse_for_any_image() -> None:
    """The same random starts: each image's loss only rises with every further one, and several differ."""
    network, (images, labels) = trained(), batch()
    highest = None
    for restarts in (1, 2, 4):
        loss = losses(pgd_restarts(network, images, labels, 0.1, 3, 0.04, restarts, generator()))
        assert highest is None or ((loss >= highest).all() and (loss > highest).any())
        highest = loss


def test_one_seed_gives_one_result() -> None:
    network, (images, labels) = trained(), batch()
    first, second, third = (
        pgd_restarts(network, images, labels, 0.1, 2, 0.05, 2, generator(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


class InPlace(nn.Module):
    """Shifts its input in place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shifted, and through the trained network."""
        x.sub_(0.25).add_(0.25)
        answer: torch.Tensor = trained()(x.mul_(0.5).mul_(2).add_(0.01))
        return answer


def test_a_network_that_works_in_place_harms_no_image() -> None:
    images, labels = batch()
    before = images.clone()
    found = pgd_restarts(InPlace(), images, labels, 0.1, 2, 0.05, 2, generator())
    assert torch.equal(images, before)
    assert inside(found, before, 0.1)


class Detached(nn.Module):
    """Gives answers without gradients."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The trained network's, detached."""
        answer: torch.Tensor = trained()(x).detach()
        return answer


def test_a_network_without_gradients_is_an_error() -> None:
    images, labels = batch()
    with pytest.raises(ModelError, match=r"^model: gives no gradients by its input"):
        fgsm(Detached(), images, labels, 0.1)


CONFIG = RobustnessConfig(epsilon=0.1, pgd_steps=3, pgd_step_size=0.05, pgd_restarts=1)


def craft(folder: Path, config: RobustnessConfig = CONFIG, seed: int = 0) -> tuple[Any, Any]:
    """Sets as a device reads them, and the stage's metrics."""
    test = digits().test
    with torch.random.fork_rng(devices=[]):
        other = residual_cnn(channels=8, blocks=1).eval()
    surrogates = {"dense": trained(), "compressed": other}
    result = craft_sets(config, surrogates, test.images[:150], test.labels[:150], seed, 1, folder, no_progress)
    index = folder / INDEX_FILE
    return read_sets(read_json(index, BundleError), lambda name: (folder / name).read_bytes(), "sets"), result.metrics


def test_sets_are_read_back_by_the_device(tmp_path: Path) -> None:
    """More than a batch of images: clean, one of each attack and network, and five strengths of each corruption."""
    sets, metrics = craft(tmp_path)
    names = [info.name for info in sets.infos]
    attacks = ["fgsm_dense", "pgd_dense", "fgsm_compressed", "pgd_compressed"]
    corruptions = [f"{method}_{strength}" for strength in STRENGTHS for method in ("gaussian_noise", "gaussian_blur")]
    assert names == ["clean", *attacks, *corruptions]
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.npy" for name in names} | {"sets.json", "labels.npy"}
    clean = sets.images["clean"]
    assert np.array_equal(clean, digits().test.images[:150])
    assert np.array_equal(sets.labels, digits().test.labels[:150])
    for info in sets.infos:
        images = sets.images[info.name]
        assert images.min() >= 0
        assert images.max() <= 1
        if info.kind == "adversarial":
            assert np.abs(images - clean).max() <= info.epsilon + ROUNDING
            with torch.no_grad():
                network = trained() if info.surrogate == "dense" else None
                if network:
                    right = (network(torch.from_numpy(images)).argmax(1).numpy() == sets.labels).mean()
                    assert metrics[f"{info.name}_surrogate_accuracy"] == pytest.approx(right, abs=1e-9)
    assert metrics["pgd_dense_surrogate_accuracy"] < 0.9
    assert metrics["samples"] == 150


def test_equal_seeds_give_equal_files(tmp_path: Path) -> None:
    for folder, seed in (("one", 0), ("two", 0), ("three", 1)):
        torch.manual_seed(len(folder))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(9)
            craft(tmp_path / folder, seed=seed)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
        seeded = path.stem.startswith(("pgd", "gaussian_noise"))
        assert (path.read_bytes() != (tmp_path / "three" / path.name).read_bytes()) == seeded


def test_without_attacks_there_are_still_corruptions(tmp_path: Path) -> None:
    sets, metrics = craft(tmp_path, CONFIG.model_copy(update={"attacks": ()}))
    assert {info.kind for info in sets.infos} == {"clean", "corruption"}
    assert metrics == {"samples": 150}


def test_stronger_corruptions_distort_more_and_are_what_a_camera_gives() -> None:
    images = digits().test.images
    for corrupt in (lambda strength: gaussian_noise(images, strength, seed=1), lambda s: gaussian_blur(images, s)):
        distortion = []
        for strength in STRENGTHS:
            found = corrupt(strength)
            assert found.dtype == np.float32
            assert found.shape == images.shape
            assert np.array_equal(found, np.round(found * 255).astype(np.float32) / np.float32(255))
            assert found.min() >= 0
            assert found.max() <= 1
            distortion.append(float(((found - images) ** 2).mean()))
        assert distortion == sorted(distortion)
        assert distortion[0] > 0


def test_noise_is_seeded_and_blur_stays_within_a_channel() -> None:
    images = np.zeros((2, 3, 9, 9), dtype=np.float32)
    images[0, 1, 4, 4] = 1
    assert np.array_equal(gaussian_noise(images, 3, 5), gaussian_noise(images, 3, 5))
    assert not np.array_equal(gaussian_noise(images, 3, 5), gaussian_noise(images, 3, 6))
    blurred = gaussian_blur(images, 5)
    assert blurred[0, 1, 4, 4] == blurred[0, 1].max() < 1
    assert blurred[0, 1, 3, 4] == pytest.approx(blurred[0, 1, 4, 5])
    blurred[0, 1] = 0
    assert not blurred.any()
    assert np.array_equal(gaussian_blur(np.ones((1, 1, 8, 8), np.float32), 5), np.ones((1, 1, 8, 8)))
