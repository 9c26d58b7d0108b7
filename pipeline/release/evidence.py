"""What the gate for releases reads of a run: figures of the shipped engine, from a verified evidence bundle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.archive import SUFFIX
from devices.bundle import Bundle
from devices.errors import BundleError
from devices.robustness import INDEX_FILE, LABELS_FILE
from devices.statistics import Interval
from devices.trust.store import Trust
from pipeline.budget_rule import is_met
from pipeline.release.places import opened_bundle

EVIDENCE_SUFFIX = f".evidence{SUFFIX}"
"""Ends the name of an archive that holds an evidence bundle."""
_RUN_AGAIN = "Run the recipe again with this version"
_EFFORT = {
    "pgd": ("pgd_steps", "pgd_restarts", "pgd_step_size"),
    "apgd_ce": ("budget", "apgd_steps", "restarts"),
    "apgd_dlr": ("budget", "apgd_steps", "restarts", "targets"),
    "fab": ("budget", "fab_steps", "restarts", "targets"),
    "square": ("budget", "square_queries", "restarts"),
}
"""Keys of [robustness] that say how hard an attack tries."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A budget of the recipe, with what was found."""

    name: str
    text: str
    unit: str
    limit: float
    value: float | None
    low: float | None
    high: float | None

    @property
    def met(self) -> bool:
        """Whether even the bad end of the interval meets it."""
        return is_met(self.name, self.limit, self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class RunFigures:
    """A run, as far as it is judged."""

    folder: str
    name: str
    device: str
    task: str
    engine: str
    baseline: str
    """Engine that speed is told against."""
    budgets: tuple[Asked, ...]
    samples: Mapping[str, str]
    """Digests of the images and labels that it was evaluated on."""
    attacks: tuple[str, ...]
    """Each attack in words: method, surrogate, ε and its norm; sorted."""
    clean: NDArray[Any] | None
    """Score by sample, (N,): bool or float64. None where engines were not run."""
    robust: NDArray[Any] | None
    """The worst case by sample; None where nothing was attacked."""
    size_bytes: int
    speedup: Interval | None
    """Times as fast as its own baseline, measured in the same run; None where that was not."""
    measured: bool
    """Whether engines were run."""


def run_figures(evidence: Bundle) -> RunFigures:
    """Read them. Raises `BundleError` on what is missing or of another version."""
    where = str(evidence.folder)
    try:
        return _read(evidence)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as cause:
        raise BundleError(where, f"does not hold a whole run ({cause!r:.60})", _RUN_AGAIN) from cause


def last_releases(place: Path, trust: Trust) -> tuple[RunFigures, ...]:
    """Those of the last release, device by device. `place` is a run, an evidence bundle, or the folder of a release.

    Raises `BundleError` when one is not whole or not trusted.
    """
    archives = sorted(place.glob(f"*{EVIDENCE_SUFFIX}")) if place.is_dir() else []
    return tuple(_opened_figures(archive, trust) for archive in archives or [place])


def last_release(place: Path, run: RunFigures, trust: Trust, new: bool) -> RunFigures | None:
    """That of the run's device; None where a release of its recipe has none for it, and the device is taken as `new`.

    Raises `BundleError` as above, and when there is none for a device that is not.
    """
    archives = sorted(place.glob(f"*{EVIDENCE_SUFFIX}")) if place.is_dir() else []
    others = []
    for archive in archives or [place]:
        figures = _opened_figures(archive, trust)
        if figures.device == run.device:
            return figures
        others.append(figures)
    ours = all(other.name == run.name for other in others)
    if new and ours:
        return None
    if not archives:
        # A run is given to be compared with, and the comparison says what it is of.
        return others[0]
    what = f"holds no evidence of '{run.name:.80}' for '{run.device:.80}', only "
    what += ", ".join(f"of '{other.name:.80}' for '{other.device:.80}'" for other in others)
    fix = "Give --baseline the last release of this recipe, with that device"
    if ours:
        fix += f"; if it is a new device, --accept {run.device:.80}:new"
    raise BundleError(str(place), what, fix)


def _opened_figures(place: Path, trust: Trust) -> RunFigures:
    with opened_bundle(place, "evidence", trust) as bundle:
        # An archive's folder is gone when something is said of it.
        return replace(run_figures(bundle), folder=str(place))


def _read(evidence: Bundle) -> RunFigures:
    manifest = evidence.manifest
    report = evidence.read_json("report.json")
    engine, baseline = str(manifest["engine"]), str(report["baseline"])
    index = evidence.read_json(f"sets/{INDEX_FILE}")
    infos = [row for row in index["sets"] if row["kind"] in ("clean", "adversarial")]
    measured = bool(report["measured"])
    replay = evidence.read_json("results/replay.json") if measured else None
    scores = _scores(replay, engine, [str(row["name"]) for row in infos]) if measured else {}
    effort = manifest["recipe"]["robustness"]
    attacks = {_attack(row, effort) for row in infos if row["kind"] == "adversarial"} | _queries(replay)
    _require_own_device(report["board"], evidence)
    return RunFigures(
        folder=str(evidence.folder),
        name=_text(manifest["name"]),
        device=_text(manifest["device"]),
        task=_text(manifest["task"]["kind"]),
        engine=_text(engine),
        baseline=baseline,
        budgets=_budgets(manifest["verdict"], manifest["recipe"]["gate"], f"{evidence.folder}: verdict"),
        samples={name: evidence.digests[f"sets/{name}"] for name in ("clean.npy", LABELS_FILE)},
        attacks=tuple(sorted(attacks)),
        clean=scores.get("clean"),
        robust=_worst_case(replay, engine, scores) if scores and attacks else None,
        size_bytes=_size(manifest["metrics"]["size_bytes"]),
        speedup=_speedup(report["speedups"], engine, baseline) if measured else None,
        measured=measured,
    )


def _require_own_device(board: Any, evidence: Bundle) -> None:
    if board and board.get("other_device"):
        what = f"was measured on another device than '{evidence.manifest['device']:.80}', by --force: it proves nothing"
        raise BundleError(str(evidence.folder), what, "Run the recipe on that device")


def _text(value: Any) -> str:
    """As it is; raises `ValueError` for what no file or terminal takes."""
    str(value).encode()
    return str(value)


def _attack(row: Any, effort: Mapping[str, Any]) -> str:
    """With how hard it tried: the same attack with fewer steps leaves more."""
    rounded = " in bytes" if row.get("rounded") else ""
    within = f"within {float(row['epsilon']):g} {row.get('norm', 'linf')}{rounded}"
    keys = _EFFORT.get(str(row["method"]), ())
    tried = "".join(f", {key} {effort[key]}" for key in keys if effort.get(key) is not None)
    return _text(f"{row['method']} through {row['surrogate']} {within}{tried}")


def _queries(replay: Any) -> set[str]:
    """Attacks that asked the engine itself, in words."""
    plan = replay.get("query_plan") if replay else None
    if not plan:
        return set()
    asked = f"by {plan['queries']} queries about {plan['samples']} images"
    within = f"within {float(plan['epsilon']):g} {plan['norm']}"
    return {_text(f"{method} {asked} {within}") for method in plan["attacks"]}


def _scores(replay: Any, engine: str, names: list[str]) -> dict[str, NDArray[Any]]:
    """Score of every sample, by set."""
    rows = replay["correct"] if "correct" in replay else replay["scores"]
    if rows[engine] == {}:
        # It answers at random, and has no scores.
        return {}
    found = {name: _by_sample(rows[engine][name]) for name in names}
    if len({row.shape for row in found.values()}) != 1:
        raise ValueError("sets of different lengths")
    return found


def _by_sample(row: Any) -> NDArray[Any]:
    """A text of 0 and 1 for wrong and right, or a list of scores from 0 to 1."""
    found = np.array([char == "1" for char in row]) if isinstance(row, str) else np.array(row, np.float64)
    if found.ndim != 1 or not found.size:
        raise ValueError(f"scores of shape {found.shape}")
    # Comparisons with what is no number are false, and would hold.
    if not bool(np.all((found >= 0) & (found <= 1))):
        raise ValueError("scores outside 0 to 1")
    return found


def _worst_case(replay: Any, engine: str, scores: Mapping[str, NDArray[Any]]) -> NDArray[Any] | None:
    """The least of every set's score and of what withstood queries, by sample, (N,); None where nothing was tried.

    Queries are asked about the first samples only; where no set was attacked, the others do not count. An engine that
    does not answer the same image alike is not asked at all.
    """
    worst: NDArray[Any] = np.minimum.reduce(list(scores.values()))
    withstood = [_by_sample(row) for row in replay.get("withstood_queries", {}).get(engine, {}).values()]
    for right in withstood:
        worst[: right.size] = np.minimum(worst[: right.size], right)
    if len(scores) > 1:
        return worst
    return worst[: withstood[0].size] if withstood else None


def _budgets(verdict: Any, wanted: Mapping[str, Any], where: str) -> tuple[Asked, ...]:
    """The budgets, judged again: a verdict that does not follow from its figures is refused, as are other budgets."""
    asked = tuple(_asked(row) for row in verdict["budgets"])
    limits = {name: float(limit) for name, limit in wanted.items() if limit is not None}
    if {budget.name: budget.limit for budget in asked} != limits or len(asked) != len(limits):
        raise BundleError(where, "is not on the budgets of its recipe", "Do not use this run")
    for budget, row in zip(asked, verdict["budgets"], strict=True):
        if budget.met != row["met"]:
            raise BundleError(f"{where}: {budget.name}", "does not follow from its figures", "Do not use this run")
    return asked


def _asked(row: Any) -> Asked:
    value, low, high = (None if row[key] is None else _finite(row[key]) for key in ("value", "low", "high"))
    name, text, unit = (_text(row[key]) for key in ("name", "text", "unit"))
    return Asked(name=name, text=text, unit=unit, limit=_finite(row["limit"]), value=value, low=low, high=high)


def _finite(value: Any) -> float:
    found = float(value) if type(value) in (int, float) else math.nan
    if not math.isfinite(found):
        raise ValueError(f"figure {value!r:.40}")
    return found


def _size(size_bytes: Any) -> int:
    if type(size_bytes) is not int or size_bytes <= 0:
        raise ValueError(f"size {size_bytes!r:.40}")
    return size_bytes


def _speedup(speedups: Any, engine: str, baseline: str) -> Interval | None:
    if engine == baseline:
        return Interval(1.0, 1.0, 1.0)
    for row in speedups:
        if (row["engine"], row["than"]) == (engine, baseline):
            found = Interval(*(_finite(row[key]) for key in ("value", "low", "high")))
            if not 0 < found.low <= found.value <= found.high:
                raise ValueError(f"speed-up {found}")
            return found
    return None
