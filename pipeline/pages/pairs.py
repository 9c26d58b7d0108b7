"""Two runs on the same evaluation sets, image by image: how their accuracies differ, or why that cannot be said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.bundle import open_bundle
from devices.robustness import INDEX_FILE, LABELS_FILE, difference
from devices.scoring import kind_of
from devices.statistics import Interval
from devices.trust.store import UNSIGNED

_REPLAY = "results/replay.json"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a run's evidence says of the engine that it judged, image by image."""

    digests: Mapping[str, str]
    """SHA-256 of the evaluation sets' files by name."""
    infos: tuple[Mapping[str, Any], ...]
    """The sets, as their index has them."""
    scores: Mapping[str, NDArray[Any]]
    """By set, (N,): right or wrong, or a score from 0 to 1."""
    queried: bool
    """Whether the engine was asked queries too, which differ from engine to engine."""

    @property
    def attacked(self) -> tuple[Mapping[str, Any], ...]:
        """The adversarial sets."""
        return tuple(info for info in self.infos if info["kind"] == "adversarial")

    @property
    def worst_case(self) -> NDArray[Any]:
        """Least score of each image, clean and under every adversarial set, (N,)."""
        least = np.minimum.reduce([self.scores["clean"], *(self.scores[info["name"]] for info in self.attacked)])
        return np.asarray(least)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A difference of two runs, after less before; None where they cannot be paired."""

    what: str
    difference: Interval | None
    why: str
    """On what it was taken, or why it was not."""


def read_evidence(folder: Path, report: Mapping[str, Any]) -> Evidence:
    """Of a run folder with this report. Raises `BundleError` for a damaged one, and whatever an unknown form raises."""
    bundle = open_bundle(folder / "evidence", "evidence", UNSIGNED)
    replayed = bundle.read_json(_REPLAY)
    kept = "correct" if kind_of(report.get("task")) == "classification" else "scores"
    return Evidence(
        digests={name.removeprefix("sets/"): found for name, found in bundle.digests.items() if name[:5] == "sets/"},
        infos=tuple(bundle.read_json(f"sets/{INDEX_FILE}")["sets"]),
        scores={name: _scores(found) for name, found in replayed[kept][report["shipped"]].items()},
        queried=bool(replayed.get("query_plan")),
    )


def clean_pair(before: Evidence, after: Evidence) -> Pair:
    """Accuracy on the clean images, where they are the same."""
    if not _same(before, after, "clean.npy") or not _same(before, after, LABELS_FILE):
        return Pair(what="clean", difference=None, why="the runs were judged on different images")
    if not before.scores or not after.scores:
        return Pair(what="clean", difference=None, why="one of them answers at random")
    images = len(before.scores["clean"])
    found = difference(before.scores["clean"], after.scores["clean"])
    return Pair(what="clean", difference=found, why=f"on the same {images:,} images")


def robust_pair(before: Evidence, after: Evidence) -> Pair:
    """Worst case of each image under the adversarial sets, where both met the same attacks."""
    clean = clean_pair(before, after)
    if clean.difference is None:
        return Pair(what="robust", difference=None, why=clean.why)
    if not before.attacked or not after.attacked:
        return Pair(what="robust", difference=None, why="one of them was not attacked")
    if before.attacked != after.attacked:
        return Pair(what="robust", difference=None, why="they met different attacks")
    names = [f"{info['name']}.npy" for info in before.attacked]
    if all(_same(before, after, name) for name in names):
        how = "under the same adversarial images"
    else:
        how = "each under the same attacks, made against the networks of its own run"
    alone = "; queries left out, as each engine was asked its own" if before.queried or after.queried else ""
    found = difference(before.worst_case, after.worst_case)
    return Pair(what="robust", difference=found, why=f"{clean.why}, {how}{alone}")


def _same(before: Evidence, after: Evidence, name: str) -> bool:
    return name in before.digests and before.digests[name] == after.digests.get(name)


def _scores(found: str | list[float]) -> NDArray[Any]:
    """As `devices.attack` writes them: a text of 0 and 1, or scores."""
    if isinstance(found, str):
        return np.array([letter == "1" for letter in found], dtype=np.bool_)
    return np.array(found, dtype=np.float64)
