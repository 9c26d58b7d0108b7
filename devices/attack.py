"""The attack stage: evaluation sets replayed through every engine, judged sample by sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from devices.detect import Host
from devices.engine_files import read_engine
from devices.engines import onnxruntime
from devices.files import write_json
from devices.robustness import EvaluationSets, Replay, accuracy, difference, replay, require_fit
from devices.stage import Progress, StageResult

REPLAY_FILE = "replay.json"


@dataclass(frozen=True)
class ReplayArtifact:
    """`replay.json`: which samples each engine got right, set by set, and what follows from it."""

    folder: Path


def attack_engines(
    engines: Mapping[str, Path], baseline: str, sets: EvaluationSets, host: Host, folder: Path, progress: Progress
) -> StageResult[ReplayArtifact]:
    """Replay every set through every engine. Differences are to the baseline, on the same samples.

    Raises `DeviceError` when an engine does not fit the host, `DataError` when the sets do not fit an engine.
    """
    replays: dict[str, Replay] = {}
    for done, (name, place) in enumerate(engines.items()):
        progress(done, len(engines), name)
        engine = onnxruntime.open_engine(*read_engine(place), host)
        require_fit(sets, engine.info)
        replays[name] = replay(engine.run, sets)
    results = {name: summarize_replay(found, replays[baseline]) for name, found in replays.items()}
    metrics: dict[str, object] = {"samples": len(sets.labels), "engines": results}
    outcomes = {
        name: {info.name: "".join("01"[int(right)] for right in found.correct[info.name]) for info in found.infos}
        for name, found in replays.items()
    }
    write_json(folder / REPLAY_FILE, metrics | {"correct": outcomes})
    return StageResult(ReplayArtifact(folder), metrics)


def summarize_replay(found: Replay, baseline: Replay) -> dict[str, object]:
    """Accuracy by set, clean and worst case, each with its interval; no robust accuracy when nothing was attacked."""
    robust: dict[str, object] | None = None
    if found.has_attacks:
        robust = accuracy(found.worst_case).as_dict() | {
            "difference": difference(baseline.worst_case, found.worst_case).as_dict()
        }
    clean = accuracy(found.correct["clean"]).as_dict() | {
        "difference": difference(baseline.correct["clean"], found.correct["clean"]).as_dict()
    }
    return {
        "clean": clean,
        "robust": robust,
        "sets": set_rows(found),
    }


def set_rows(found: Replay) -> list[dict[str, object]]:
    """What each set is, and the accuracy on it with its interval."""
    return [asdict(info) | accuracy(found.correct[info.name]).as_dict() for info in found.infos]
