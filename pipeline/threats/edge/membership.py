"""Membership inference: is an image one of those that the network was trained on? Asked of the engine's answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from devices.errors import DataError
from devices.queries.base import Run, are_probabilities, ask, log_of
from devices.statistics import Interval, independent_difference, paired_difference, wilson
from pipeline.data import Split
from pipeline.threats.edge.record import Change, Figure, Origin, Threat, share_text
from pipeline.threats.edge.subject import Images, Subject, befores

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Shadow = Callable[[Split, int], Run]
"""Trains a network as the victim was, on these images and others of its own, with this seed."""
_LEAST = 20


@dataclass(frozen=True, kw_only=True)
class MembershipConfig:
    """What is reported, and what the attacker may train."""

    false_positive_rate: float = 0.01
    """Of images that are no members, at which members found are counted (Carlini et al. 2022)."""
    shadows: int = 0
    """Networks that the attacker trains; 0 for the attack on the loss alone, otherwise even, and 4 at least."""
    seed: int = 0


@dataclass(frozen=True)
class Guess:
    """Scores of members and of others: more is more like a member. And the attacker's threshold."""

    members: Floats
    others: Floats
    threshold: float


def losses_of(run: Run, split: Split) -> Floats:
    """Cross-entropy of each image, (N,); infinite where an answer is not finite. Probabilities count by their
    logarithms."""
    answers = ask(run, split.batch(slice(None)))
    finite: Flags = np.asarray(np.isfinite(answers).all(axis=1))
    logits = (log_of(answers) if are_probabilities(answers) else answers).astype(np.float64)
    safe = np.where(finite[:, None], logits, 0)
    top = safe.max(axis=1)
    lost = top + np.log(np.exp(safe - top[:, None]).sum(axis=1)) - safe[np.arange(len(safe)), split.labels]
    return np.where(finite, lost, np.inf)


def confidence_of(run: Run, split: Split) -> Floats:
    """log(p / (1 - p)) of the label's probability, (N,) (Carlini et al. 2022), within ±30."""
    lost = losses_of(run, split)
    # p = exp(-lost), so log(1 - p) = log(-expm1(-lost)).
    return np.clip(-lost - np.log(np.maximum(-np.expm1(-lost), np.exp(-30.0))), -30, 30)


def guess_by_loss(member_losses: Floats, other_losses: Floats) -> Guess:
    """A member has no more than the mean loss of the training images (Yeom et al. 2018, section 3)."""
    finite = member_losses[np.isfinite(member_losses)]
    mean = float(finite.mean()) if finite.size else 0.0
    return Guess(-member_losses, -other_losses, -mean)


def likelihood_ratios(target: Floats, shadows: Floats, inside: Flags) -> Floats:
    """log N(target; mean with) - log N(target; mean without) of each image, (N,).

    `target` is (N,), `shadows` and `inside` are (S, N): the confidence of each shadow network, and whether the image
    was among those it was trained on. LiRA online (Carlini et al. 2022, algorithm 1) with one variance for all images,
    which is what few shadow networks can tell.
    """
    means, variances = [], []
    for flags in (inside, np.logical_not(inside)):
        mean = np.where(flags, shadows, 0).sum(axis=0) / np.maximum(flags.sum(axis=0), 1)
        left = np.where(flags, shadows - mean, 0)
        # One mean was taken of each image's values, which costs a degree of freedom each.
        degrees = max(int(flags.sum()) - flags.shape[1], 1)
        means.append(mean)
        variances.append(max(float((left**2).sum()) / degrees, 1e-6))
    logs = [
        -((target - mean) ** 2) / (2 * variance) - 0.5 * math.log(variance)
        for mean, variance in zip(means, variances, strict=True)
    ]
    return np.asarray(logs[0] - logs[1])


def advantage(members: Interval, others: Interval) -> Interval:
    """Share of members called so minus share of others called so (Yeom et al. 2018).

    Of two independent samples; the interval squares and adds those of both (Newcombe 1998, method 10).
    """
    found = independent_difference(others, members)
    return Interval(found.value, max(-1.0, found.low), min(1.0, found.high))


def membership(
    subjects: Sequence[Subject],
    images: Images,
    config: MembershipConfig,
    shadow: Shadow | None = None,
    of: Origin = "engine",
) -> Threat:
    """Members are images of `images.train`, others those of `images.test`. Raises `DataError` when there are few."""
    if min(len(images.train), len(images.test)) < _LEAST:
        what = f"are {len(images.train)} of training and {len(images.test)} of test"
        raise DataError("membership: images", what, f"Give {_LEAST} of each at least")
    by_loss = [
        guess_by_loss(losses_of(subject.run, images.train), losses_of(subject.run, images.test)) for subject in subjects
    ]
    attacks = {"loss at most the mean of training (Yeom)": by_loss}
    if shadow is not None and config.shadows:
        attacks[f"LiRA with {config.shadows} shadow networks"] = _by_shadows(subjects, images, config, shadow)
    figures: list[Figure] = []
    for text, guesses in attacks.items():
        figures += _figures(subjects, text, guesses, config)
    trained = f"{config.shadows} networks" if config.shadows else "no network of the attacker's"
    return Threat(
        name="membership",
        tried="Whether an image was one of training, by the engine's answer to it",
        budget=f"{len(images.train)} training images, {len(images.test)} others, {trained}",
        figures=tuple(figures),
        not_shown=(
            "Shadow networks are trained as the dense one and not compressed: who does that too knows more.",
            "With few shadow networks LiRA is weak: no advantage found is no proof of privacy.",
            "The threshold at a low false positive rate is of the same images; its spread is not in the interval.",
        ),
        of=of,
    )


def _figures(
    subjects: Sequence[Subject], text: str, guesses: Sequence[Guess], config: MembershipConfig
) -> list[Figure]:
    rate = config.false_positive_rate
    flags = [(guess.members >= guess.threshold, guess.others >= guess.threshold) for guess in guesses]
    strict = [_strict(guess, rate) for guess in guesses]
    names = [subject.name for subject in subjects]
    figures = []
    for index, name in enumerate(names):
        others = befores(names, index)
        samples = flags[index][0].size + flags[index][1].size
        changes = [Change(names[at], _advantage_gained(flags[at], flags[index])) for at in others]
        figures.append(
            Figure(
                artifact=name,
                setting=text,
                measure="advantage: members found less others accused",
                interval=advantage(*map(_share, flags[index])),
                samples=samples,
                changes=tuple(changes),
            )
        )
        changes = [Change(names[at], paired_difference(strict[at], strict[index])) for at in others]
        figures.append(
            Figure(
                artifact=name,
                setting=text,
                measure=f"members found, {share_text(rate)} of others accused",
                interval=_share(strict[index]),
                samples=samples,
                role="told",
                changes=tuple(changes),
            )
        )
    return figures


def _advantage_gained(before: tuple[Flags, Flags], after: tuple[Flags, Flags]) -> Interval:
    return advantage(*(paired_difference(old, new) for old, new in zip(before, after, strict=True)))


def _strict(guess: Guess, rate: float) -> Flags:
    """Members above the score that at most this share of the others exceeds."""
    allowed = math.floor(rate * guess.others.size)
    return np.asarray(guess.members > np.sort(guess.others)[::-1][allowed])


def _share(flags: Flags) -> Interval:
    return wilson(int(flags.sum()), flags.size)


def _by_shadows(subjects: Sequence[Subject], images: Images, config: MembershipConfig, shadow: Shadow) -> list[Guess]:
    """Each shadow network is trained on a random half of all these images, and each image is in half of them."""
    train, test = images.train, images.test
    pool = Split(np.concatenate([train.images, test.images]), np.concatenate([train.labels, test.labels]))
    order = np.random.default_rng(config.seed).random((config.shadows, len(pool))).argsort(axis=0)
    inside = order < config.shadows // 2
    rows = []
    for number, chosen in enumerate(inside):
        trained = shadow(Split(pool.images[chosen], pool.labels[chosen]), config.seed + 1 + number)
        rows.append(confidence_of(trained, pool))
    shadows = np.stack(rows)
    guesses = []
    for subject in subjects:
        ratios = likelihood_ratios(confidence_of(subject.run, pool), shadows, inside)
        guesses.append(Guess(ratios[: len(train)], ratios[len(train) :], 0.0))
    return guesses
