"""Judging a torch network: worst case by sample, whatever the batches; what makes an attack unbelievable is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from devices.clipping import Norm
from devices.errors import ModelError, RecipeError
from devices.statistics import wilson
from pipeline.attacks.ensemble import AUTOATTACK, FAST, STANDARD, expanded
from pipeline.attacks.judge import Judgement, judge
from pipeline.attacks.norms import Ball
from pipeline.attacks.sanity import check_sanity
from pipeline.attacks.victim import victim_of
from pipeline.datasets.digits import digits
from pipeline.tasks.builtin import Classification, Segmentation
from tests.pipeline.attacks.parts import Linear, gray, trained

COUNT = 60
IMAGES, LABELS = digits().test.images[:COUNT], digits().test.labels[:COUNT]
TINY = replace(FAST, apgd_steps=8, fab_steps=8, square_queries=40)


def judged(network: nn.Module, batch: int = 128, norm: Norm = "linf", **changed: Any) -> Judgement:
    """By the whole ensemble, with little effort."""
    ball = Ball(epsilon=0.05 if norm == "linf" else 0.4, norm=norm)
    return judge(network, IMAGES, LABELS, AUTOATTACK, ball, replace(TINY, **changed), 3, batch)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_survives_is_right_and_what_does_not_was_broken_inside_the_ball(norm: Norm) -> None:
    found = judged(trained(), norm=norm)
    with torch.no_grad():
        right = trained()(torch.from_numpy(found.images)).argmax(1).numpy() == LABELS
    np.testing.assert_array_equal(right, found.survived)
    assert not (found.survived & ~found.right).any()
    assert 0 < found.survived.sum() < found.right.sum()
    change = (found.images - IMAGES).reshape(COUNT, -1).astype(np.float64)
    size = np.abs(change).max(axis=1) if norm == "linf" else np.linalg.norm(change, axis=1)
    assert size.max() <= (0.05 if norm == "linf" else 0.4) + 1e-6
    assert not change[found.survived].any()
    counts = list(found.left_after.values())
    assert list(found.left_after) == list(AUTOATTACK)
    assert counts == sorted(counts, reverse=True)
    assert found.robust_accuracy == wilson(int(found.survived.sum()), COUNT)
    assert (found.targets, found.targeted_loss) == (3, "dlr")


def test_the_result_does_not_depend_on_how_samples_are_packed() -> None:
    whole, packed = judged(trained()), judged(trained(), batch=7)
    np.testing.assert_array_equal(whole.survived, packed.survived)
    assert whole.left_after == packed.left_after


def test_an_ensemble_leaves_no_more_than_any_of_its_attacks() -> None:
    together = judged(trained()).survived
    for name in AUTOATTACK:
        alone = judge(trained(), IMAGES, LABELS, (name,), Ball(epsilon=0.05), TINY, 3).survived
        assert (together <= alone).all()


def test_below_four_classes_targets_are_all_the_others_and_the_loss_is_said() -> None:
    network, images = Linear(3, seed=0), gray(30).numpy()
    with torch.no_grad():
        labels = network(torch.from_numpy(images)).argmax(1).numpy()
    budget = replace(STANDARD, square_queries=50)
    found = judge(network, images, labels, AUTOATTACK, Ball(epsilon=0.008), budget, 0)
    assert (found.targets, found.targeted_loss) == (2, "cross-entropy")
    # Of a linear classifier FAB is exact: alone it leaves what the ensemble leaves.
    alone = judge(network, images, labels, ("fab",), Ball(epsilon=0.008), budget, 0)
    np.testing.assert_array_equal(alone.survived, found.survived)
    assert 0 < found.survived.sum() < 30


def test_probabilities_are_noticed_and_attacked_as_if_they_were_logits() -> None:
    sharp = nn.Sequential(trained(), nn.Softmax(dim=1)).eval()
    assert victim_of(sharp, Classification(), torch.from_numpy(IMAGES)).probabilities
    assert not victim_of(trained(), Classification(), torch.from_numpy(IMAGES)).probabilities
    assert abs(int(judged(sharp).survived.sum()) - int(judged(trained()).survived.sum())) <= 1


def test_another_task_or_another_answer_is_refused() -> None:
    masks = np.zeros((2, 8, 8), np.int64)
    with pytest.raises(RecipeError, match=r"^robustness.attacks: apgd_dlr: aims at classes, and the task is segm"):
        judge(nn.Conv2d(1, 3, 1), IMAGES[:2], masks, ("apgd_dlr",), Ball(epsilon=0.1), TINY, 0, task=Segmentation(255))
    with pytest.raises(ModelError, match=r"^model: gives \(16, 1\), and attacks on a classifier need logits"):
        judge(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), IMAGES, LABELS, ("fgsm",), Ball(epsilon=0.1), TINY, 0)


def test_names_stand_for_attacks_once_and_in_one_order() -> None:
    assert expanded(("square", "autoattack", "fgsm")) == ("fgsm", *AUTOATTACK)
    assert expanded(()) == ()


def sanity(network: nn.Module, labels: np.ndarray[Any, np.dtype[np.int64]] = LABELS) -> dict[str, Any]:
    """Of the first samples, at ε = 0.1."""
    return check_sanity(victim_of(network, Classification(), torch.from_numpy(IMAGES)), IMAGES, labels, BALL, 0)


BALL = Ball(epsilon=0.1)


def test_a_plain_network_gives_no_cause_for_doubt() -> None:
    found = sanity(trained())
    assert found["notes"] == []
    assert found["unlimited"] <= 0.1
    assert found["by_epsilon"]["0.05"] >= found["by_epsilon"]["0.1"] >= found["by_epsilon"]["0.2"]
    assert list(found["by_steps"]) == ["1", "3", "10"]
    assert found["zero_gradients"] == 0
    assert found["median_gradient"] > 0
    assert found["samples"] == COUNT


class Stepped(nn.Module):
    """Answers from images rounded to four levels: its gradients are zero nearly everywhere."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the trained network."""
        answer: torch.Tensor = trained()(torch.round(x * 4) / 4)
        return answer


def test_masked_gradients_give_themselves_away() -> None:
    found = sanity(Stepped())
    assert found["zero_gradients"] == 1
    assert any("exactly zero" in note for note in found["notes"])
    assert any("without limits" in note for note in found["notes"])


def test_answers_that_make_robustness_meaningless_are_named() -> None:
    shifted = (LABELS + 1) % 10
    assert any("near chance" in note for note in sanity(trained(), shifted)["notes"])

    class Eight(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = trained()(x)
            return logits - torch.tensor([0.0] * 8 + [1e3, 1e3])

    assert any("never answers" in note and "8" in note for note in sanity(Eight())["notes"])
    assert any("probabilities" in note for note in sanity(nn.Sequential(trained(), nn.Softmax(1)))["notes"])
