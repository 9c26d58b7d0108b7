"""Classification and segmentation: losses by hand, scores that torch and numpy agree on, attacks that climb them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from devices.robustness import read_sets
from devices.scoring import same_classes
from devices.stage import no_progress
from pipeline.attacks.craft import craft_sets
from pipeline.attacks.fgsm import fgsm
from pipeline.attacks.norms import Ball
from pipeline.attacks.pgd import pgd
from pipeline.recipe import RobustnessConfig, TaskConfig
from pipeline.tasks.base import Task
from pipeline.tasks.builtin import Classification, Segmentation
from pipeline.tasks.select import task_of
from pipeline.zoo import residual_cnn, unet


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Small tensors: a second thread only waits for the first, and longer when others run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def seeded_network(segmenting: bool) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return (unet(channels=4, classes=3) if segmenting else residual_cnn(channels=8, blocks=1)).eval()


def masks(*shape: int, seed: int = 0, ignored: int = 255) -> torch.Tensor:
    """Of three classes, a fifth of the pixels not labelled."""
    rng = np.random.default_rng(seed)
    found = rng.integers(0, 3, shape)
    found[rng.random(shape) < 0.2] = ignored
    return torch.from_numpy(found.astype(np.uint8))


def test_the_recipe_chooses_the_task() -> None:
    assert task_of(TaskConfig()) == Classification()
    assert task_of(TaskConfig(kind="segmentation", ignore_label=7)) == Segmentation(7)
    assert task_of(TaskConfig(kind="segmentation", ignore_label=7)).scoring.ignore_label == 7


@pytest.mark.parametrize("task", [Classification(), Segmentation(9)])
def test_a_task_travels_to_other_processes(task: Task) -> None:
    assert pickle.loads(pickle.dumps(task)) == task  # noqa: S301
    assert task.agreement is same_classes


def test_classification_is_cross_entropy_and_right_or_wrong() -> None:
    task, logits, labels = Classification(), torch.randn(7, 5), torch.arange(7) % 5
    assert torch.equal(task.loss(logits, labels), functional.cross_entropy(logits, labels))
    summed = functional.cross_entropy(logits, labels, reduction="sum")
    assert torch.equal(task.summed_loss(logits, labels), summed)
    assert torch.allclose(task.sample_losses(logits, labels).sum(), summed)
    right = logits.argmax(1) == labels
    assert task.score(logits, labels).tolist() == right.tolist()
    assert float(task.metric(logits, labels)) == pytest.approx(float(right.float().mean()))


def test_the_loss_of_masks_is_the_mean_of_labelled_pixels() -> None:
    task, logits, truth = Segmentation(255), torch.randn(4, 3, 6, 5), masks(4, 6, 5)
    expected = functional.cross_entropy(logits, truth.long(), ignore_index=255)
    assert torch.allclose(task.loss(logits, truth), expected)
    alone = torch.stack([task.loss(logits[i : i + 1], truth[i : i + 1]) for i in range(4)])
    assert torch.allclose(task.sample_losses(logits, truth), alone)
    assert torch.allclose(task.summed_loss(logits, truth), alone.sum())
    other = Segmentation(8).loss(logits, masks(4, 6, 5, ignored=8))
    assert torch.allclose(other, expected)


def test_a_batch_without_a_labelled_pixel_has_no_loss() -> None:
    """0 and no gradients, where a mean over nothing would not be a number."""
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = Segmentation(255).loss(logits, torch.full((2, 4, 4), 255))
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@settings(max_examples=20)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 2**31))
def test_torch_and_numpy_say_the_same_of_smaller_logits(height: int, width: int, seed: int) -> None:
    """The score interpolates in numpy as the loss does in torch: the same class but where two are within rounding."""
    truth = masks(3, 7, 9, seed=seed)
    logits = torch.randn((3, 3, height, width), generator=torch.Generator().manual_seed(seed))
    resized = functional.interpolate(logits, size=(7, 9), mode="bilinear", align_corners=False)
    counted = truth != 255
    right = ((resized.argmax(1) == truth) & counted).sum((1, 2)) / counted.sum((1, 2))
    found = Segmentation(255).score(logits, truth)
    first, second = resized.topk(2, dim=1).values.unbind(1)
    near = ((first - second < 1e-4) & counted).sum((1, 2)) / counted.sum((1, 2))
    assert (np.abs(found - right.numpy()) <= near.numpy() + 1e-6).all()
    assert torch.allclose(
        Segmentation(255).loss(logits, truth), functional.cross_entropy(resized, truth.long(), ignore_index=255)
    )


def test_attacks_on_classification_are_what_they_were() -> None:
    """To the bit: the sign of the summed cross-entropy's gradient."""
    network, labels = seeded_network(False), torch.arange(20) % 10
    images = torch.rand((20, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    shown = images.clone().requires_grad_(True)
    summed = functional.cross_entropy(network(shown), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(summed, shown)
    near = torch.minimum(torch.maximum(images + 0.1 * gradient.sign(), images - 0.1), images + 0.1)
    assert torch.equal(fgsm(network, images, labels, 0.1), near.clamp(0, 1))


def test_attacks_climb_the_loss_of_masks() -> None:
    """Within ε, image by image; more than noise of the same size does; restarts never harm less."""
    network, task, truth = seeded_network(True), Segmentation(255), masks(6, 8, 8)
    images = torch.rand((6, 1, 8, 8), generator=torch.Generator().manual_seed(1))

    def losses(found: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return task.sample_losses(network(found), truth)

    noise = (images + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(2)).sign()).clamp(0, 1)
    one = fgsm(network, images, truth, 0.1, task.summed_loss)
    assert (losses(one) > losses(images)).all()
    highest = losses(one).mean()
    assert highest > losses(noise).mean()
    start = 0.1 * (torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    found = pgd(network, images, truth, Ball(epsilon=0.1), 5, 0.03, start, task.summed_loss)
    assert (found - images).abs().max() <= 0.1 + 1e-6
    assert losses(found).mean() > highest


def test_sets_of_masks_are_crafted_and_read_back(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((6, 1, 8, 8), dtype=np.float32)
    truth, task = masks(6, 8, 8).numpy(), Segmentation(255)
    config = RobustnessConfig(epsilon=0.1, pgd_steps=2, pgd_restarts=1)
    network = seeded_network(True)
    result = craft_sets(config, {"dense": network}, images, truth, 0, 1, tmp_path, no_progress, task)
    index = json.loads((tmp_path / "sets.json").read_text())
    sets = read_sets(index, lambda name: (tmp_path / name).read_bytes(), "sets")
    assert sets.scoring == task.scoring
    np.testing.assert_array_equal(sets.labels, truth)
    with torch.no_grad():
        left = task.score(network(torch.from_numpy(sets.images["pgd_dense"])), torch.from_numpy(truth)).mean()
    assert result.metrics["pgd_dense_surrogate_accuracy"] == pytest.approx(left)
