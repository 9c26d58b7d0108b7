"""The attack stage: evaluation sets replayed through every engine, queries asked of it, judged sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from devices.corruption import corruption_summary
from devices.detect import Host
from devices.engine_files import read_engine
from devices.engines.base import EngineInfo, FloatArray
from devices.engines.select import open_engine
from devices.errors import DataError
from devices.files import write_json
from devices.masking import worst_class
from devices.metered import counted, part_of
from devices.outcome import Outcome, masking_of, query_rows
from devices.queries.evaluate import query_engine
from devices.queries.plan import QueryPlan
from devices.robustness import (
    EvaluationSets,
    Replay,
    accuracy,
    difference,
    mean_ap_of,
    mean_iou_of,
    replay,
    require_fit,
)
from devices.scoring import Scorer
from devices.stage import Progress, StageResult

REPLAY_FILE = "replay.json"
WITHSTOOD = "withstood_queries"
"""Key of the samples that withstood each attack by queries, by engine."""


@dataclass(frozen=True)
class Answering:
    """Something that answers images, and what it takes."""

    info: EngineInfo
    run_all: Callable[[FloatArray], tuple[FloatArray, ...]]
    """Images (N, C, H, W) to every output, each (N, ...)."""

    def run(self, images_NCHW: FloatArray) -> FloatArray:
        """The first output, such as logits (N, classes)."""
        return self.run_all(images_NCHW)[0]


@dataclass(frozen=True)
class ReplayArtifact:
    """`replay.json`: what each engine's answer to each sample was worth, set by set, and what follows from it."""

    folder: Path


def attack_engines(
    engines: Mapping[str, Path],
    baseline: str,
    sets: EvaluationSets,
    host: Host,
    folder: Path,
    progress: Progress,
    scorer: Scorer | None = None,
    queries: QueryPlan | None = None,
) -> StageResult[ReplayArtifact]:
    """Replay every set through every engine, then ask each by the plan. Differences are to the baseline, on the same
    samples.

    `scorer` is that of a custom task; the others have their own. Raises `DeviceError` when an engine does not fit the
    host, `DataError` when the sets do not fit an engine, or queries are planned for other answers than classes.
    """

    def opening(place: Path) -> Callable[[], Answering]:
        def load() -> Answering:
            engine = open_engine(*read_engine(place), host)
            return Answering(engine.info, engine.run_all)

        return load

    loaders = {name: opening(place) for name, place in engines.items()}
    return replay_answers(loaders, baseline, sets, folder, progress, scorer, queries)


def replay_answers(
    loaders: Mapping[str, Callable[[], Answering]],
    baseline: str,
    sets: EvaluationSets,
    folder: Path,
    progress: Progress,
    scorer: Scorer | None = None,
    queries: QueryPlan | None = None,
    of: Literal["engine", "graph"] = "engine",
) -> StageResult[ReplayArtifact]:
    """The same of whatever answers; each is loaded when its turn comes, and let go after."""
    require_classes(sets, queries)
    outcomes: dict[str, Outcome] = {}
    for done, (name, load) in enumerate(loaders.items()):
        progress(done, len(loaders), name)
        answering = load()
        require_fit(sets, answering.info)
        replayed, queried = _shares(sets, queries)
        part = part_of(progress, done / len(loaders), (done + replayed / (replayed + queried)) / len(loaders))
        outcomes[name] = Outcome(replay(counted(answering.run_all, replayed, part, name), sets, scorer))
        if queries and outcomes[name].is_steady:
            rest = part_of(progress, (done + replayed / (replayed + queried)) / len(loaders), (done + 1) / len(loaders))
            asked = query_engine(answering.run, sets.images["clean"], sets.labels, queries, _named(rest, name))
            outcomes[name] = replace(outcomes[name], queried=asked)
    results = {name: summarize(name, outcomes, baseline, sets, queries) for name in outcomes}
    metrics: dict[str, object] = {
        "of": of,
        "samples": len(sets.labels),
        "task": sets.scoring.kind,
        "query_plan": asdict(queries) if queries else None,
        "engines": results,
    }
    kept = "correct" if sets.scoring.kind == "classification" else "scores"
    write_json(folder / REPLAY_FILE, metrics | _by_sample(outcomes, kept))
    return StageResult(ReplayArtifact(folder), metrics)


def _shares(sets: EvaluationSets, queries: QueryPlan | None) -> tuple[int, int]:
    """Images that are replayed, and those that are asked about at most."""
    replayed = sum(len(images) for images in sets.images.values())
    samples = len(sets.labels)
    return replayed, len(queries.attacks) * queries.queries * min(samples, queries.samples) if queries else 0


def _named(progress: Progress, name: str) -> Progress:
    return lambda done, total, text: progress(done, total, f"{name}, {text}")


def require_classes(sets: EvaluationSets, queries: QueryPlan | None) -> None:
    """Raise `DataError` when queries are planned and the sets are of another task than classification."""
    if queries and sets.scoring.kind != "classification":
        what = f"are of {sets.scoring.kind}, and queries are guided by the margin between classes"
        raise DataError("evaluation sets", what, "Replay them without queries")


def _by_sample(outcomes: Mapping[str, Outcome], kept: str) -> dict[str, object]:
    scores = {
        name: {info.name: _outcomes(found.replay.scores[info.name]) for info in found.replay.infos}
        if found.is_steady
        else {}
        for name, found in outcomes.items()
    }
    withstood = {
        name: {attack.method: _outcomes(attack.right) for attack in found.queried.attacks} if found.is_steady else {}
        for name, found in outcomes.items()
        if found.queried
    }
    return {kept: scores, **({WITHSTOOD: withstood} if withstood else {})}


def _outcomes(scores: NDArray[Any]) -> str | list[float]:
    """A text of 0 and 1 for wrong and right; scores as they are."""
    return "".join("01"[int(right)] for right in scores) if scores.dtype == np.bool_ else [*map(float, scores)]


def summarize(
    name: str, outcomes: Mapping[str, Outcome], baseline: str, sets: EvaluationSets, queries: QueryPlan | None
) -> dict[str, object]:
    """Accuracy by set, clean and worst case, each with its interval; no robust accuracy when nothing was attacked.

    Of segmentation mean intersection over union, of detection mean average precision, of the clean images too. An
    engine that answers at random has no figure, and no difference is told to a baseline that does.
    """
    found, before = outcomes[name], outcomes[baseline]
    if not found.is_steady:
        unknown = dict.fromkeys(("clean", "robust", "worst_class", "corruption"))
        told = {"alike": found.alike, "sets": [], "queries": [], "masking": masking_of(name, outcomes)}
        return {**unknown, **told}
    robust: dict[str, object] | None = None
    hit: dict[str, object] | None = None
    if found.has_attacks:
        worst = found.worst_case
        gained = difference(before.worst_case, worst).as_dict() if before.is_steady else None
        robust = accuracy(worst).as_dict() | {"difference": gained}
        if sets.scoring.kind == "classification":
            hardest = worst_class(worst, sets.labels[: len(worst)])
            hit = hardest.as_dict() if hardest else None
    scores, scores_before = found.replay.scores["clean"], before.replay.scores["clean"]
    gained = difference(scores_before, scores).as_dict() if before.is_steady else None
    return {
        "alike": found.alike,
        "clean": accuracy(scores).as_dict() | {"difference": gained},
        "robust": robust,
        "worst_class": hit,
        **of_the_whole_set(found.replay, "clean"),
        "corruption": corruption_summary(found.replay, before.replay) if before.is_steady else None,
        "sets": set_rows(found.replay),
        "queries": query_rows(found, before, queries),
        "masking": masking_of(name, outcomes),
    }


def of_the_whole_set(found: Replay, name: str) -> dict[str, object]:
    """Figures that are no mean of images: mean IoU of segmentation, mean average precision of detection."""
    figures = {"mean_iou": mean_iou_of(found, name), "mean_ap": mean_ap_of(found, name)}
    return {key: figure.as_dict() for key, figure in figures.items() if figure is not None}


def set_rows(found: Replay) -> list[dict[str, object]]:
    """What each set is, and the accuracy on it with its interval; with what is of the whole set."""
    return [
        asdict(info) | accuracy(found.scores[info.name]).as_dict() | of_the_whole_set(found, info.name)
        for info in found.infos
    ]
