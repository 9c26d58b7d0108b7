"""A finished search: its trials, its front, and the point that is pruned to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devices.errors import RecipeError, StorageError
from devices.files import read_json

FORMAT = "espalier-study/1"
STUDY_FILE = "study.json"
NEAREST = "nearest"
_NAMED = 12


@dataclass(frozen=True)
class Trial:
    """One point, and what it gave."""

    name: str
    origin: str
    """`uniform`: one share for all groups. `random`. `genetic`."""
    widths: Mapping[str, int]
    """Width by group; a group that is not named stays whole."""
    keep: Mapping[str, float]
    """The same as shares."""
    metrics: Mapping[str, float]
    on_front: bool


@dataclass(frozen=True)
class Study:
    """All trials of a search; the first is the whole network."""

    objectives: tuple[str, ...]
    trials: tuple[Trial, ...]

    @property
    def dense(self) -> Trial:
        """The whole network, judged like every other point."""
        return self.trials[0]


@dataclass(frozen=True)
class Limit:
    """The most that a figure of a trial may be."""

    metric: str
    at_most: float


def read_study(folder: Path) -> Study:
    """The study of a search stage. Raises `StorageError` when it is missing or malformed."""
    path = folder / STUDY_FILE
    raw = read_json(path, StorageError)
    try:
        if raw["format"] != FORMAT:
            raise StorageError(str(path), f"is not of format {FORMAT!r}", "Search again")
        trials = tuple(_trial(row) for row in raw["trials"])
        return Study(tuple(raw["objectives"]), trials)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as cause:
        raise StorageError(str(path), f"is malformed ({cause!r:.60})", "Search again") from cause


def choose_point(study: Study, choose: str, limit: Limit | None = None) -> Trial:
    """The trial of that name, or for `nearest` the most accurate one within the limit.

    Of equally accurate ones the cheapest. Raises `RecipeError` when there is no such trial.
    """
    if choose != NEAREST:
        found = next((trial for trial in study.trials if trial.name == choose), None)
        if found is None:
            front = [trial.name for trial in study.trials if trial.on_front]
            shown = ", ".join(front[:_NAMED]) + (f" and {len(front) - _NAMED} more" if len(front) > _NAMED else "")
            what = f"'{choose}' is not one of the {len(study.trials)} trials; on the front are {shown}"
            raise RecipeError("search.choose", what, "Name one of them")
        return found
    if limit is None:
        what = "'nearest' needs a budget in [prune]: MACs, parameters, bytes or milliseconds"
        raise RecipeError("search.choose", what, "Set prune.target_macs, or name a trial such as 'trial-0'")
    if limit.metric not in study.dense.metrics:
        what = f"'nearest' needs '{limit.metric}' of every trial, which this search did not look at"
        raise RecipeError("search.choose", what, f"Add '{limit.metric}' to search.objectives")
    within = [trial for trial in study.trials if trial.metrics[limit.metric] <= limit.at_most]
    if not within:
        least = min(study.trials, key=lambda trial: trial.metrics[limit.metric])
        raise RecipeError(
            "search.choose",
            f"no trial has {limit.metric} of {limit.at_most:.6g} or less; the nearest is {least.name} "
            f"with {least.metrics[limit.metric]:.6g}",
            "Raise the target, search with more trials or a lower search.min_keep, or name a trial",
        )
    judge = next((name for name in study.objectives if name.endswith("accuracy")), "accuracy")
    return min(within, key=lambda trial: (-trial.metrics[judge], not trial.on_front, trial.metrics[limit.metric]))


def _trial(row: Mapping[str, Any]) -> Trial:
    return Trial(
        name=str(row["name"]),
        origin=str(row["origin"]),
        widths={str(group): int(width) for group, width in row["widths"].items()},
        keep={str(group): float(share) for group, share in row["keep"].items()},
        metrics={str(name): float(value) for name, value in row["metrics"].items()},
        on_front=bool(row["on_front"]),
    )
