"""FAB finds the nearest border of a linear classifier, and a change onto a plane is the shortest one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from devices.clipping import Norm
from pipeline.attacks.fab import fab_targeted
from pipeline.attacks.norms import Ball
from pipeline.attacks.planes import change_to_plane
from tests.pipeline.attacks.parts import Linear, batch_of, gray, inside, some_digits, trained, victim

NORMS: tuple[Norm, ...] = ("linf", "l2")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 6])
def test_the_nearest_border_of_a_linear_classifier_is_found(norm: Norm, classes: int) -> None:
    """Its distance is a margin over the dual norm of two classes' difference: within that none breaks, all beyond."""
    network, images = Linear(classes, seed=3), gray(12)
    logits = network(images).detach()
    labels, weight = logits.argmax(1), network.weight.detach()
    exact = torch.full((len(images),), torch.inf)
    for rank in range(classes - 1):
        aimed = logits.argsort(1, descending=True)[:, 1 + rank]
        across = weight[aimed] - weight[labels]
        dual = across.abs().sum(1) if norm == "linf" else across.norm(dim=1)
        gap = logits.gather(1, labels[:, None])[:, 0] - logits.gather(1, aimed[:, None])[:, 0]
        exact = torch.minimum(exact, gap / dual)
    for image, label, distance in zip(images.split(1), labels.split(1), exact.tolist(), strict=True):
        for share, broken in ((1.01, True), (0.999, False)):
            ball, attacked = Ball(epsilon=share * distance, norm=norm), victim(network, classes)
            found = [
                fab_targeted(attacked, batch_of(image, label), ball, 20, 0, rank, True) for rank in range(classes - 1)
            ]
            assert any(float(one.worth) > 0 for one in found) == broken
            assert all(inside(one.images, image, ball.epsilon, norm) for one in found)


@pytest.mark.parametrize("norm", NORMS)
def test_points_for_replay_reach_the_border_and_points_that_judge_need_not(norm: Norm) -> None:
    images, labels = some_digits(40)
    ball = Ball(epsilon=0.05 if norm == "linf" else 0.4, norm=norm)
    attacked = victim(trained())
    judged, replayed = (
        fab_targeted(attacked, batch_of(images, labels), ball, 20, 0, 0, leave) for leave in (True, False)
    )
    broken = judged.worth > 0
    assert 0 < int(broken.sum()) < 40
    for found in (judged, replayed):
        assert inside(found.images, images, ball.epsilon, norm)
        with torch.no_grad():
            wrong = trained()(found.images).argmax(1) != labels
        assert torch.equal(wrong, found.worth > 0)
    sizes = [ball.lengths(found.images - images) for found in (judged, replayed)]
    # Only an image's own limits keep a stretched change from its full length.
    assert (sizes[1] > 0.8 * ball.epsilon).all()
    assert sizes[0][broken].mean() < sizes[1][broken].mean()
    assert replayed.worth[broken].mean() > judged.worth[broken].mean()


@given(st.integers(0, 2**31), st.floats(-3, 3), st.sampled_from(NORMS))
def test_a_change_onto_a_plane_lands_there_inside_the_box_and_no_shorter_one_does(
    seed: int, shift: float, norm: Norm
) -> None:
    rng = np.random.default_rng(seed)
    point, normal = rng.random(5), rng.normal(size=5)
    # Some values sit at the box's border, and some do not count.
    point[rng.random(5) < 0.2] = 1.0
    normal[rng.random(5) < 0.2] = 0.0
    offset = float(normal @ point) + shift
    tensors = (torch.from_numpy(value[None]) for value in (point, normal, np.array(offset)))
    change = change_to_plane(*tensors, norm)[0].numpy()
    assert (point + change).min() >= -1e-9
    assert (point + change).max() <= 1 + 1e-9
    room = np.where(normal * shift > 0, 1 - point, point)
    reachable = float((np.abs(normal) * room).sum())
    moved = float(normal @ change)
    assert moved == pytest.approx(np.sign(shift) * min(abs(shift), reachable), abs=1e-9)
    if 1e-6 < abs(shift) < reachable - 1e-6:
        assert _shortest(point, normal, shift, norm) == pytest.approx(_length(change, norm), rel=1e-4, abs=1e-6)


def _length(change: np.ndarray[tuple[int], np.dtype[np.float64]], norm: Norm) -> float:
    return float(np.abs(change).max() if norm == "linf" else np.linalg.norm(change))


def _shortest(
    point: np.ndarray[tuple[int], np.dtype[np.float64]],
    normal: np.ndarray[tuple[int], np.dtype[np.float64]],
    shift: float,
    norm: Norm,
) -> float:
    """By a general solver."""
    limits = list(zip(-point, 1 - point, strict=True))
    if norm == "linf":
        count = len(point)
        below = np.block([[np.eye(count), -np.ones((count, 1))], [-np.eye(count), -np.ones((count, 1))]])
        found = linprog(
            np.r_[np.zeros(count), 1],
            below,
            np.zeros(2 * count),
            np.r_[normal, 0][None],
            [shift],
            [*limits, (0, None)],
        )
        return float(found.fun)
    plane = {"type": "eq", "fun": lambda change: normal @ change - shift, "jac": lambda _: normal}
    start = np.clip(shift * normal / (normal @ normal), -point, 1 - point)
    found = minimize(
        lambda change: change @ change,
        start,
        jac=lambda change: 2 * change,
        bounds=limits,
        constraints=[plane],
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return float(np.sqrt(found.fun))
