"""Membership inference on scores whose truth is known, and on a network that learned by heart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.errors import DataError
from devices.statistics import wilson
from pipeline.data import Split
from pipeline.threats.edge.membership import (
    MembershipConfig,
    advantage,
    confidence_of,
    guess_by_loss,
    likelihood_ratios,
    losses_of,
    membership,
)
from pipeline.threats.edge.subject import Images, Subject
from tests.pipeline.threats.edge.parts import Fixed, of_torch


class ByHeart:
    """Answers the members with certainty, everything else by chance."""

    def __init__(self, members: Split) -> None:
        self._known = {image.tobytes(): int(label) for image, label in zip(members.images, members.labels, strict=True)}

    def __call__(self, images_NCHW: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        logits = np.zeros((len(images_NCHW), 10), dtype=np.float32)
        for row, image in zip(logits, images_NCHW, strict=True):
            if image.tobytes() in self._known:
                row[self._known[image.tobytes()]] = 9.0 + image.mean()
        return logits


def by_heart(images: Images, name: str = "dense-fp32") -> Subject:
    plain = of_torch(name, Fixed(torch.zeros(64, 10)))
    return Subject(name, ByHeart(images.train), plain.network, plain.onnx_path)


def test_losses_are_cross_entropy_and_confidence_is_their_odds(images: Images) -> None:
    """Against torch; an answer that is not finite is infinitely wrong."""
    generator = torch.Generator().manual_seed(0)
    subject = of_torch("x", Fixed(3 * torch.randn(64, 10, generator=generator)))
    labels = torch.from_numpy(images.test.labels)
    logits = subject.network(torch.from_numpy(images.test.batch(slice(None)))).double()
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    assert np.allclose(losses_of(subject.run, images.test), expected, rtol=1e-5, atol=1e-6)
    shares = logits.softmax(dim=1).gather(1, labels[:, None])[:, 0]
    odds = (shares / (1 - shares)).log().clamp(-30, 30)
    assert np.allclose(confidence_of(subject.run, images.test), odds, rtol=1e-3, atol=1e-3)
    broken = lambda shown: np.full((len(shown), 10), np.nan, dtype=np.float32)  # noqa: E731
    assert np.isinf(losses_of(broken, images.test)).all()


def test_who_learned_by_heart_is_found_and_who_learned_nothing_is_not(images: Images) -> None:
    """The first gives all members away; the second's advantage is 0, and the change says so, with its interval."""
    nothing = of_torch("compressed-int8", Fixed(torch.zeros(64, 10)))
    threat = membership([by_heart(images), nothing], images, MembershipConfig())
    known, known_strict, none, none_strict = threat.figures
    assert known_strict.interval.value == 1
    assert none.interval.value == none_strict.interval.value == 0
    assert none.changes[0].interval.high < -0.2
    assert [figure.role for figure in threat.figures] == ["judged", "told", "judged", "told"]
    assert known.interval.value > 0.2


def test_lira_finds_members_by_shadows_that_behave_alike(images: Images) -> None:
    """Shadows that know their own images by heart, and a victim that knows its own."""
    asked: list[int] = []

    def shadow(part: Split, seed: int) -> ByHeart:
        asked.append(seed)
        assert len(part) > 0
        return ByHeart(part)

    threat = membership([by_heart(images)], images, MembershipConfig(shadows=4), shadow)
    assert len(set(asked)) == 4
    of_lira = [figure for figure in threat.figures if "LiRA" in figure.setting]
    assert of_lira[0].interval.value == 1


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), shift=st.floats(0.5, 5.0))
def test_likelihood_ratios_rise_with_confidence_where_members_are_more_confident(seed: int, shift: float) -> None:
    """And each image is compared with its own two means."""
    generator = np.random.default_rng(seed)
    inside = generator.random((6, 30)).argsort(axis=0) < 3
    own = generator.standard_normal(30)
    shadows = own + shift * inside + 0.1 * generator.standard_normal((6, 30))
    high, low = (likelihood_ratios(own + far, shadows, inside) for far in (shift, 0.0))
    assert np.all(high > low)
    assert np.all(high > 0)
    assert np.all(low < 0)


@settings(max_examples=50, deadline=None)
@given(hits=st.tuples(st.integers(0, 40), st.integers(0, 60)))
def test_an_advantage_lies_within_its_interval_and_turns_with_its_sides(hits: tuple[int, int]) -> None:
    """What is gained one way is lost the other way."""
    first, second = wilson(hits[0], 40), wilson(hits[1], 60)
    found, turned = advantage(first, second), advantage(second, first)
    assert found.low <= found.value <= found.high
    assert turned.value == pytest.approx(-found.value)
    assert (turned.low, turned.high) == (pytest.approx(-found.high), pytest.approx(-found.low))


def test_the_threshold_is_the_mean_loss_of_training() -> None:
    """Less than it is a member's; infinite losses do not move it."""
    guess = guess_by_loss(np.array([0.1, 0.3, np.inf]), np.array([0.15, 0.25]))
    assert guess.threshold == pytest.approx(-0.2)
    assert (guess.members > guess.threshold).tolist() == [True, False, False]
    assert (guess.others > guess.threshold).tolist() == [True, False]


def test_few_images_are_refused(images: Images) -> None:
    """An interval of nothing would say nothing."""
    few = Images(train=Split(images.train.images[:5], images.train.labels[:5]), test=images.test)
    with pytest.raises(DataError, match="5 of training"):
        membership([by_heart(images)], few, MembershipConfig())
