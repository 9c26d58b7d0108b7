"""Where engines are built, measured and attacked: on this machine, or on a board at the other end of ssh."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from devices.agent_build import ANSWERS_FILE, IMAGES_FILE, ONNX_FILE, BuildJob, build_engine, keep_graph
from devices.agent_runtime import RebuildJob, rebuild_on_device, start_on_device
from devices.agent_stage import ENGINE_PREFIX, AttackJob
from devices.attack import attack_engines
from devices.engine_files import INFO_FILE, engine_name, read_engine, read_info
from devices.engines.base import FloatArray
from devices.engines.select import open_engine, ort_options
from devices.errors import BundleError
from devices.files import read_json, storage_errors
from devices.latency import LatencyConfig
from devices.measure import MeasurePlan, measure_engines
from devices.profile import Profile
from devices.queries.plan import QueryPlan
from devices.remote.result import BoardResult
from devices.robustness import INDEX_FILE, read_sets
from devices.stage import Metrics, Progress
from devices.tune import tune_session
from pipeline.store import RESULT_FILE
from pipeline.tasks.select import task_of
from pipeline.work import RunBoard, Work

_SENDING = ".sending"
Engines = Mapping[str, Path]
"""Folders by the engines' names."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """An engine was built."""

    told: dict[str, Any]
    """What building told."""
    answers: tuple[FloatArray, ...]
    """Of the engine to the images, (N, ...) for each output; none where it was not asked."""
    origin: dict[str, Any]
    """The board, where one built it."""


class Place(Protocol):
    """The device, as far as steps use it. Each writes its files into `folder` and raises what the stage raises."""

    def build(
        self,
        onnx: Path,
        images: FloatArray | None,
        profile: Profile,
        job: BuildJob,
        folder: Path,
        progress: Progress,
    ) -> Built:
        """Build an engine from an ONNX file, and have it answer images (N, C, H, W) where there are any.

        `profile` is the device's, with options that were tuned for this engine.
        """

    def measure(self, engines: Engines, plan: MeasurePlan, folder: Path, progress: Progress) -> Metrics:
        """Measure engines side by side."""

    def attack(
        self,
        engines: Engines,
        baseline: str,
        sets: Path,
        folder: Path,
        progress: Progress,
        queries: QueryPlan | None,
    ) -> Metrics:
        """Replay evaluation sets through engines, then ask them."""

    def tune(self, onnx: Path, config: LatencyConfig, folder: Path, progress: Progress) -> Metrics:
        """Tune the options of a session of ONNX Runtime."""

    def rebuild(self, onnx: Path, job: RebuildJob, folder: Path, progress: Progress) -> Metrics:
        """Build the same graph several times, and compare."""

    def start(self, engine: Path, folder: Path, progress: Progress) -> Metrics:
        """Start an engine with kernels compiled anew and with kept ones."""


def place_of(work: Work, kept: Path | None = None) -> Place:
    """The board of a run, or this machine, with a folder for times of TensorRT's kernels; a board has its own."""
    return OnBoard(work.board) if work.board else Here(work, kept)


@dataclass(frozen=True)
class Here:
    """This machine."""

    work: Work
    kept: Path | None

    def build(
        self,
        onnx: Path,
        images: FloatArray | None,
        profile: Profile,
        job: BuildJob,
        folder: Path,
        progress: Progress,
    ) -> Built:
        """Build and ask in this process, or in one that TensorRT gets for itself."""
        host = self.work.host
        progress(0, 2, "building")
        if self.work.graphs_alone:
            told = keep_graph(onnx, folder, profile, job, host)
        else:
            told = build_engine(onnx, folder, profile, job, host, self.kept)
        progress(1, 2, "answering")
        answers = () if images is None else open_engine(*read_engine(folder), host).run_all(images)
        return Built(told=told, answers=answers, origin={})

    def measure(self, engines: Engines, plan: MeasurePlan, folder: Path, progress: Progress) -> Metrics:
        """Measure in this process."""
        return measure_engines(engines, plan, self.work.host, folder, progress).metrics

    def attack(
        self,
        engines: Engines,
        baseline: str,
        sets: Path,
        folder: Path,
        progress: Progress,
        queries: QueryPlan | None,
    ) -> Metrics:
        """Replay and ask in this process; a score of the user's own is code that runs here."""
        index = sets / INDEX_FILE
        found = read_sets(read_json(index, BundleError), lambda name: (sets / name).read_bytes(), str(index))
        scorer = task_of(self.work.recipe.task).scores
        host = self.work.host
        return attack_engines(engines, baseline, found, host, folder, progress, scorer, queries).metrics

    def tune(self, onnx: Path, config: LatencyConfig, folder: Path, progress: Progress) -> Metrics:
        """Tune in this process."""
        options = ort_options(self.work.profile)
        return tune_session(onnx, options, config, self.work.host, folder, progress).metrics

    def rebuild(self, onnx: Path, job: RebuildJob, folder: Path, progress: Progress) -> Metrics:
        """Build in processes of their own."""
        progress(0, 1, "building")
        return rebuild_on_device(onnx, self.work.profile, job, self.work.host, folder).metrics

    def start(self, engine: Path, folder: Path, progress: Progress) -> Metrics:
        """Start it in fresh processes."""
        progress(0, 1, "starting")
        return start_on_device(engine, folder).metrics


@dataclass(frozen=True)
class OnBoard:
    """A board. What it needs goes there by digest, what it makes comes back; a cut run goes on where it stopped."""

    board: RunBoard

    def build(
        self,
        onnx: Path,
        images: FloatArray | None,
        profile: Profile,
        job: BuildJob,
        folder: Path,
        progress: Progress,
    ) -> Built:
        """Build there. The answers are compared here, with what the graph says."""
        with _sending(folder) as sent:
            inputs = _graph(onnx, sent)
            if images is not None:
                inputs["images"] = _saved(images, sent / "images")
            result = self.board.run_stage("build", job, inputs, folder, progress, profile=profile)
        told = dict(result.metrics)
        paths = [folder / ANSWERS_FILE.format(index) for index in range(len(told.pop("answers", ())))]
        answers = tuple(_read(path) for path in paths)
        for path in paths:
            path.unlink()
        return Built(told=told, answers=answers, origin=self._origin(result))

    def measure(self, engines: Engines, plan: MeasurePlan, folder: Path, progress: Progress) -> Metrics:
        """Measure there."""
        with _sending(folder) as sent:
            inputs = _engines(engines, sent)
            result = self.board.run_stage("measure", plan, inputs, folder, progress, longer_s=plan.lasts_s)
        return result.metrics | self._origin(result)

    def attack(
        self,
        engines: Engines,
        baseline: str,
        sets: Path,
        folder: Path,
        progress: Progress,
        queries: QueryPlan | None,
    ) -> Metrics:
        """Replay and ask there. The board scores by the task that the sets name."""
        with _sending(folder) as sent:
            for path in sets.iterdir():
                if path.name != RESULT_FILE:
                    _link(path, sent / "sets" / path.name)
            inputs = {**_engines(engines, sent), "sets": sent / "sets"}
            job = AttackJob(baseline=baseline, queries=queries)
            result = self.board.run_stage("attack", job, inputs, folder, progress)
        return result.metrics | self._origin(result)

    def tune(self, onnx: Path, config: LatencyConfig, folder: Path, progress: Progress) -> Metrics:
        """Tune there."""
        with _sending(folder) as sent:
            result = self.board.run_stage("tune", config, _graph(onnx, sent), folder, progress)
        return result.metrics | self._origin(result)

    def rebuild(self, onnx: Path, job: RebuildJob, folder: Path, progress: Progress) -> Metrics:
        """Build there."""
        with _sending(folder) as sent:
            result = self.board.run_stage("rebuild", job, _graph(onnx, sent), folder, progress)
        return result.metrics | self._origin(result)

    def start(self, engine: Path, folder: Path, progress: Progress) -> Metrics:
        """Start it there."""
        with _sending(folder) as sent:
            result = self.board.run_stage("start", None, _engines({"started": engine}, sent), folder, progress)
        return result.metrics | self._origin(result)

    def _origin(self, result: BoardResult) -> dict[str, Any]:
        notes = [*self.board.notes, *(text for text in result.notes if text not in self.board.notes)]
        return {"board": {"seconds": result.seconds, "notes": notes}}


def _graph(onnx: Path, sent: Path) -> dict[str, Path]:
    _link(onnx, sent / "onnx" / ONNX_FILE)
    return {"onnx": sent / "onnx"}


def _engines(engines: Engines, sent: Path) -> dict[str, Path]:
    """Engines alone, without what the store keeps beside them."""
    found = {}
    for name, folder in engines.items():
        found[f"{ENGINE_PREFIX}{name}"] = target = sent / name
        for file in (engine_name(read_info(folder)), INFO_FILE):
            _link(folder / file, target / file)
    return found


@contextmanager
def _sending(folder: Path) -> Iterator[Path]:
    """A folder for what is sent, beside what comes back, and gone when that is here."""
    place = folder / _SENDING
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    """The same file at another place, copied where the file system has no links."""
    with storage_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, target)


def _saved(images: FloatArray, folder: Path) -> Path:
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / IMAGES_FILE, images, allow_pickle=False)
    return folder


def _read(path: Path) -> FloatArray:
    with open(path, "rb") as stream:
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
