"""The attack stage: evaluation sets replayed through every engine, judged sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from devices.detect import Host
from devices.engine_files import read_engine
from devices.engines.base import EngineInfo, FloatArray
from devices.engines.select import open_engine
from devices.files import write_json
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


@dataclass(frozen=True)
class Answering:
    """Something that answers images, and what it takes."""

    info: EngineInfo
    run_all: Callable[[FloatArray], tuple[FloatArray, ...]]
    """Images (N, C, H, W) to every output, each (N, ...)."""


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
) -> StageResult[ReplayArtifact]:
    """Replay every set through every engine. Differences are to the baseline, on the same samples.

    `scorer` is that of a custom task; the others have their own. Raises `DeviceError` when an engine does not fit the
    host, `DataError` when the sets do not fit an engine.
    """

    def opening(place: Path) -> Callable[[], Answering]:
        def load() -> Answering:
            engine = open_engine(*read_engine(place), host)
            return Answering(engine.info, engine.run_all)

        return load

    loaders = {name: opening(place) for name, place in engines.items()}
    return replay_answers(loaders, baseline, sets, folder, progress, scorer)


def replay_answers(
    loaders: Mapping[str, Callable[[], Answering]],
    baseline: str,
    sets: EvaluationSets,
    folder: Path,
    progress: Progress,
    scorer: Scorer | None = None,
    of: Literal["engine", "graph"] = "engine",
) -> StageResult[ReplayArtifact]:
    """The same of whatever answers; each is loaded when its turn comes, and let go after."""
    replays: dict[str, Replay] = {}
    for done, (name, load) in enumerate(loaders.items()):
        progress(done, len(loaders), name)
        answering = load()
        require_fit(sets, answering.info)
        replays[name] = replay(answering.run_all, sets, scorer)
    results = {name: summarize_replay(found, replays[baseline]) for name, found in replays.items()}
    metrics: dict[str, object] = {"of": of, "samples": len(sets.labels), "task": sets.scoring.kind, "engines": results}
    outcomes = {
        name: {info.name: _outcomes(found.scores[info.name]) for info in found.infos} for name, found in replays.items()
    }
    kept = "correct" if sets.scoring.kind == "classification" else "scores"
    write_json(folder / REPLAY_FILE, metrics | {kept: outcomes})
    return StageResult(ReplayArtifact(folder), metrics)


def _outcomes(scores: NDArray[Any]) -> str | list[float]:
    """A text of 0 and 1 for wrong and right; scores as they are."""
    return "".join("01"[int(right)] for right in scores) if scores.dtype == np.bool_ else [*map(float, scores)]


def summarize_replay(found: Replay, baseline: Replay) -> dict[str, object]:
    """Accuracy by set, clean and worst case, each with its interval; no robust accuracy when nothing was attacked.

    Of segmentation mean intersection over union, of detection mean average precision, of the clean images too.
    """
    robust: dict[str, object] | None = None
    if found.has_attacks:
        robust = accuracy(found.worst_case).as_dict() | {
            "difference": difference(baseline.worst_case, found.worst_case).as_dict()
        }
    clean = accuracy(found.scores["clean"]).as_dict() | {
        "difference": difference(baseline.scores["clean"], found.scores["clean"]).as_dict()
    }
    return {"clean": clean, "robust": robust, **of_the_whole_set(found, "clean"), "sets": set_rows(found)}


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
