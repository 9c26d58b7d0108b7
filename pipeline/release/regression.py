"""Against the last release: what got worse, as far as the 95 % intervals support it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from numpy.typing import NDArray

from devices.errors import BundleError
from devices.robustness import accuracy, difference
from devices.scoring import Scoring, kind_of
from devices.statistics import Interval, independent_difference
from pipeline.release.evidence import RunFigures

Outcome = Literal["held", "regressed", "not comparable", "accepted"]


@dataclass(frozen=True, kw_only=True)
class RegressionConfig:
    """How much worse than the last release is still taken, and what is taken whatever it is."""

    max_accuracy_drop: float = 0.0
    """Points."""
    max_robust_accuracy_drop: float = 0.0
    """Points."""
    max_slowdown: float = 5.0
    """Percent of the speed-up. Its interval is that of one run, and two days differ by more."""
    max_growth: float = 0.0
    """Percent of the engine's bytes."""
    accept: tuple[str, ...] = ()
    """Names of figures: `accuracy`, `robust_accuracy`, `speedup`, `size`."""


@dataclass(frozen=True, kw_only=True)
class Regression:
    """One figure beside that of the last release."""

    name: str
    text: str
    unit: str
    before: float | None
    after: float | None
    worse: Interval | None
    """By how much it got worse, with its interval; None where it cannot be told."""
    allowed: float
    how: str
    """How the two were compared, or why they cannot be."""
    outcome: Outcome

    @property
    def passed(self) -> bool:
        """What cannot be compared does not pass, unless it is accepted by name."""
        return self.outcome in ("held", "accepted")


def regressions(run: RunFigures, last: RunFigures, config: RegressionConfig) -> tuple[Regression, ...]:
    """Compare a run with that of the last release. Raises `BundleError` when they are not of one product and device."""
    for key, ours, theirs in (
        ("recipe", run.name, last.name),
        ("device", run.device, last.device),
        ("task", run.task, last.task),
    ):
        if ours != theirs:
            what = f"is of {key} '{theirs:.80}', and the run is of '{ours:.80}'"
            raise BundleError(last.folder, what, "Give the last release of the same recipe and device as --baseline")
    noun = Scoring(kind=kind_of(run.task)).noun
    same = run.samples == last.samples
    attacked = _attacks_differ(run, last)
    robust = _score(
        "robust_accuracy", f"robust {noun}", run.robust, last.robust, same, config.max_robust_accuracy_drop, attacked
    )
    found = (
        _score("accuracy", noun, run.clean, last.clean, same, config.max_accuracy_drop, None),
        # Where neither was asked to withstand anything, there is nothing to lose.
        *((robust,) if run.attacks or last.attacks else ()),
        _speed(run, last, config.max_slowdown),
        _size(run, last, config.max_growth),
    )
    return tuple(
        replace(row, outcome="accepted") if row.name in config.accept and not row.passed else row for row in found
    )


def _score(
    name: str,
    text: str,
    after: NDArray[Any] | None,
    before: NDArray[Any] | None,
    same_samples: bool,
    allowed: float,
    differ: str | None,
) -> Regression:
    """Points lost; by sample where the samples are the same."""
    worse, how = None, differ or "both runs need it measured on the engine"
    if after is not None and before is not None and differ is None:
        paired = same_samples and after.shape == before.shape and after.dtype == before.dtype
        how = "paired by sample" if paired else "other samples than before, so compared unpaired"
        gained = difference(before, after) if paired else independent_difference(accuracy(before), accuracy(after))
        worse = Interval(0.0 - 100 * gained.value, 0.0 - 100 * gained.high, 0.0 - 100 * gained.low)
    return Regression(
        name=name,
        text=f"{text} lost",
        unit="points",
        before=None if before is None else 100 * float(before.mean()),
        after=None if after is None else 100 * float(after.mean()),
        worse=worse,
        allowed=allowed,
        how=how,
        outcome=_outcome(worse, allowed),
    )


def _speed(run: RunFigures, last: RunFigures, allowed: float) -> Regression:
    """Percent of the speed-up lost. Milliseconds of two days are not compared: each run has its own baseline engine
    beside it, and what is compared is how much faster than that the shipped engine was."""
    after, before = run.speedup, last.speedup
    worse, how = None, "both runs need it measured"
    if after is not None and before is not None:
        if run.baseline == last.baseline:
            how = f"speed against {run.baseline}, each measured within its own run"
            worse = _percent_lost(before, after)
        else:
            how = f"the baseline was {last.baseline} and is {run.baseline}"
    return Regression(
        name="speedup",
        text="speed-up lost",
        unit="%",
        before=before.value if before else None,
        after=after.value if after else None,
        worse=worse,
        allowed=allowed,
        how=how,
        outcome=_outcome(worse, allowed),
    )


def _percent_lost(before: Interval, after: Interval) -> Interval:
    """Of two independent ratios, in percent: the difference of their logarithms (Zou & Donner 2008), taken back."""
    logs = [Interval(*(math.log(value) for value in (row.value, row.low, row.high))) for row in (before, after)]
    gained = independent_difference(*logs)
    value, low, high = (100 * (1 - math.exp(end)) for end in (gained.value, gained.high, gained.low))
    return Interval(value, low, high)


def _size(run: RunFigures, last: RunFigures, allowed: float) -> Regression:
    grown = 100 * (run.size_bytes / last.size_bytes - 1)
    worse = Interval(grown, grown, grown)
    return Regression(
        name="size",
        text="engine grown",
        unit="%",
        before=last.size_bytes,
        after=run.size_bytes,
        worse=worse,
        allowed=allowed,
        how="bytes, exact",
        outcome=_outcome(worse, allowed),
    )


def _attacks_differ(run: RunFigures, last: RunFigures) -> str | None:
    if run.attacks == last.attacks:
        return None
    gone, new = set(last.attacks) - set(run.attacks), set(run.attacks) - set(last.attacks)
    return f"other attacks than before: without {_list(gone)}; with {_list(new)}"


def _list(attacks: set[str]) -> str:
    return ", ".join(sorted(attacks)) or "none"


def _outcome(worse: Interval | None, allowed: float) -> Outcome:
    if worse is None:
        return "not comparable"
    # Only when even the good end is worse than allowed: what the interval does not support is no regression.
    return "regressed" if worse.low > allowed else "held"
