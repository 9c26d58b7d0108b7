"""Training: it learns, it repeats itself bit for bit, it says when it diverges, it leaves the process as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from devices.errors import ModelError
from devices.stage import no_progress
from pipeline.compute import deterministic
from pipeline.datasets.digits import digits
from pipeline.finetune import _crop_flip, fit
from pipeline.recipe import FitConfig, ObjectiveConfig
from pipeline.zoo import residual_cnn

ADVERSARIAL = ObjectiveConfig(kind="adversarial", epsilon=0.1, steps=2, step_size=0.08)


def trained(seed: int = 0, objective: ObjectiveConfig = ADVERSARIAL, epochs: int = 1) -> tuple[nn.Module, list[float]]:
    torch.manual_seed(0)
    network = residual_cnn(channels=8, blocks=1)
    losses = fit(network, digits().train, objective, FitConfig(epochs=epochs), seed, 1, no_progress)
    return network, losses


def test_it_learns() -> None:
    network, losses = trained(objective=ObjectiveConfig(), epochs=10)
    test = digits().test
    with torch.no_grad():
        answers = network(torch.from_numpy(test.batch(slice(None)))).argmax(1).numpy()
    assert (answers == test.labels).mean() > 0.9
    assert losses[-1] < 0.5 * losses[0]
    assert not network.training


def test_adversarial_training_withstands_more() -> None:
    """Under the same attack, the network trained against it keeps more than the one that was not."""
    from pipeline.attacks.gradient import pgd

    test = digits().test
    images, labels = torch.from_numpy(test.batch(slice(0, 128))), torch.from_numpy(test.labels[:128])
    held = []
    for objective in (ObjectiveConfig(), ADVERSARIAL):
        network, _ = trained(objective=objective, epochs=4)
        found = pgd(network, images, labels, 0.1, 10, 0.02, torch.Generator().manual_seed(0))
        held.append(float((network(found).argmax(1) == labels).float().mean()))
    assert held[1] > held[0] + 0.1


def test_the_same_seed_gives_the_same_bits() -> None:
    first, again, other = (trained(seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_divergence_is_said_with_epoch_and_step() -> None:
    network = residual_cnn(channels=8, blocks=1)
    with pytest.raises(ModelError, match=r"training: the loss is (nan|inf) in epoch \d+, step \d+"):
        fit(network, digits().train, ObjectiveConfig(), FitConfig(epochs=2, learning_rate=1e30), 0, 1, no_progress)


def test_settings_of_the_process_come_back() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with deterministic(seed=1, threads=1):
        assert torch.get_num_threads() == 1
        torch.rand(10)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (threads, strict)
    assert torch.equal(torch.rand(3), expected)


def test_progress_goes_from_nothing_to_all() -> None:
    seen: list[tuple[int, int]] = []
    network = residual_cnn(channels=4, blocks=1)
    config = FitConfig(epochs=2, batch_size=256)
    fit(network, digits().train, ObjectiveConfig(), config, 0, 1, lambda done, total, text: seen.append((done, total)))
    assert seen[0][0] == 0
    assert [done for done, _ in seen] == list(range(seen[0][1]))


def test_crop_flip_only_moves_and_mirrors() -> None:
    """Every image that comes out is the image, shifted by at most an eighth of its side, mirrored or not."""
    images = torch.rand((20, 2, 16, 16), generator=torch.Generator().manual_seed(0)) + 0.1
    moved = _crop_flip(images, torch.Generator().manual_seed(1))
    assert torch.equal(moved, _crop_flip(images, torch.Generator().manual_seed(1)))
    seen = set()
    for before, after in zip(images.numpy(), moved.numpy(), strict=True):
        padded = np.pad(before, ((0, 0), (2, 2), (2, 2)))
        windows = {
            (top, left, flipped): padded[:, top : top + 16, left : left + 16][:, :, :: -1 if flipped else 1]
            for top in range(5)
            for left in range(5)
            for flipped in (False, True)
        }
        matches = [key for key, window in windows.items() if np.array_equal(window, after)]
        assert matches
        seen.add(matches[0])
    assert len(seen) > 10
    assert {flipped for _, _, flipped in seen} == {False, True}
