"""A job's stage on this device: the same functions that run on a host, with what they need read from the job."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from devices.agent_cache import remove
from devices.agent_config import decode
from devices.agent_job import JOB_FILE, OUT_FOLDER, RESULT_FILE, Job, files_below, read_job, require_device
from devices.detect import Host, detect_host, matches
from devices.errors import BundleError
from devices.files import storage_errors, write_json
from devices.profile import Profile
from devices.progress import WAITING
from devices.queries.plan import QueryPlan
from devices.stage import Progress
from devices.trust.store import Trust

ENGINE_PREFIX = "engine "
"""Inputs that are engines are named so, such as `engine dense-fp32`."""


@dataclass(frozen=True, kw_only=True)
class AttackJob:
    """Evaluation sets (input `sets`) through engines."""

    baseline: str
    """Engine that every other is compared with."""
    queries: QueryPlan | None = None
    """What every engine is asked besides."""


@dataclass(frozen=True, kw_only=True)
class ReplayJob:
    """An evidence bundle (input `evidence`) through the engine of a deploy bundle (input `bundle`)."""

    trust: Trust
    """Whose bundles are taken."""
    queries: int = 0
    """Queries a sample besides; 0: none."""


def run_stage(folder: Path, progress: Progress) -> dict[str, object]:
    """Run the job in `folder`; its files go to `out/`, what was measured to `result.json`, which is returned.

    Raises what the stage raises, `BundleError` for a job that makes no sense, `DeviceError` on another device than the
    one it is meant for.
    """
    job = read_job(folder)
    host = detect_host()
    matched = job.device is None or matches(job.device, host)
    require_device(job, matched, host.device_tree_model or host.cpu_model)
    inputs = {name: folder / place for name, place in job.inputs.items()}
    out = folder / OUT_FOLDER
    with storage_errors(folder):
        remove(out)
        out.mkdir()
    wall_s, monotonic_s = time.time(), time.monotonic()
    metrics = _stage(job.stage, str(folder / JOB_FILE))(job, inputs, host, out, progress)
    seconds = time.monotonic() - monotonic_s
    result = {
        "metrics": metrics,
        "files": files_below(out),
        "host": host.as_dict(),
        "seconds": seconds,
        "clock": {"started_s": wall_s, "set_by_s": time.time() - wall_s - seconds},
        "other_device": not matched,
    }
    write_json(folder / RESULT_FILE, result)
    return result


_Stage = Callable[[Job, Mapping[str, Path], Host, Path, Progress], Mapping[str, object]]


def _stage(name: str, where: str) -> _Stage:
    stages: dict[str, _Stage] = {
        "build": _build,
        "measure": _measure,
        "attack": _attack,
        "tune": _tune,
        "rebuild": _rebuild,
        "start": _start,
        "bench": _bench,
        "replay": _replay,
        "calibrate": _calibrate,
    }
    if name not in stages:
        raise BundleError(f"{where}: stage", f"{name!r:.80} is not one of {', '.join(stages)}", "Use a matching agent")
    return stages[name]


def _build(job: Job, inputs: Mapping[str, Path], host: Host, out: Path, progress: Progress) -> Mapping[str, object]:
    from devices.agent_build import ONNX_FILE, BuildJob, build_on_device

    device, config = _device(job), decode(BuildJob, job.config, "job.json: config")
    onnx_path = _input(inputs, "onnx") / ONNX_FILE
    images = inputs.get("images")
    return build_on_device(onnx_path, images, device, config, host, out, progress, _kept(job)).metrics


def _measure(job: Job, inputs: Mapping[str, Path], host: Host, out: Path, progress: Progress) -> Mapping[str, object]:
    from devices.measure import MeasurePlan, measure_engines

    plan = decode(MeasurePlan, job.config, "job.json: config")
    return measure_engines(_engines(inputs), plan, host, out, progress).metrics


def _attack(job: Job, inputs: Mapping[str, Path], host: Host, out: Path, progress: Progress) -> Mapping[str, object]:
    from devices.attack import attack_engines
    from devices.files import read_json
    from devices.robustness import INDEX_FILE, read_sets

    config = decode(AttackJob, job.config, "job.json: config")
    folder = _input(inputs, "sets")
    index = folder / INDEX_FILE
    sets = read_sets(read_json(index, BundleError), lambda name: (folder / name).read_bytes(), str(index))
    return attack_engines(_engines(inputs), config.baseline, sets, host, out, progress, queries=config.queries).metrics


def _tune(job: Job, inputs: Mapping[str, Path], host: Host, out: Path, progress: Progress) -> Mapping[str, object]:
    from devices.agent_build import ONNX_FILE
    from devices.engines.select import ort_options
    from devices.latency import LatencyConfig
    from devices.tune import tune_session

    config, options = decode(LatencyConfig, job.config, "job.json: config"), ort_options(_device(job))
    return tune_session(_input(inputs, "onnx") / ONNX_FILE, options, config, host, out, progress).metrics


def _rebuild(job: Job, inputs: Mapping[str, Path], host: Host, out: Path, _: Progress) -> Mapping[str, object]:
    from devices.agent_build import ONNX_FILE
    from devices.agent_runtime import RebuildJob, rebuild_on_device

    config = decode(RebuildJob, job.config, "job.json: config")
    return rebuild_on_device(_input(inputs, "onnx") / ONNX_FILE, _device(job), config, host, out).metrics


def _start(_: Job, inputs: Mapping[str, Path], __: Host, out: Path, ___: Progress) -> Mapping[str, object]:
    from devices.agent_runtime import start_on_device

    (engine,) = _engines(inputs).values()
    return start_on_device(engine, out).metrics


def _bench(job: Job, inputs: Mapping[str, Path], _: Host, __: Path, progress: Progress) -> Mapping[str, object]:
    from devices.agent_bench import bench_bundle
    from devices.bench_job import BenchJob

    config = decode(BenchJob, job.config, "job.json: config")
    return bench_bundle(_input(inputs, "bundle"), inputs.get("against"), config, progress)


def _replay(job: Job, inputs: Mapping[str, Path], _: Host, __: Path, progress: Progress) -> Mapping[str, object]:
    from devices.agent_bench import attack_bundle

    config = decode(ReplayJob, job.config, "job.json: config")
    bundle, evidence = _input(inputs, "bundle"), _input(inputs, "evidence")
    return attack_bundle(bundle, evidence, config.trust, config.queries, progress)


def _calibrate(job: Job, inputs: Mapping[str, Path], host: Host, out: Path, progress: Progress) -> Mapping[str, object]:
    from devices.agent_calibrate import CalibrateJob, calibrate_on_device

    config = decode(CalibrateJob, job.config, "job.json: config")
    busy = partial(progress, 0, 100, WAITING)
    probes = _input(inputs, "probes")
    return calibrate_on_device(probes, _device(job), config, host, out, busy, progress, _kept(job)).metrics


def _device(job: Job) -> Profile:
    if job.device is None:
        raise BundleError("job.json: device", "is missing; an engine is built for a device", "Name it")
    return job.device


def _kept(job: Job) -> Path | None:
    return Path(job.kept) if job.kept else None


def _input(inputs: Mapping[str, Path], name: str) -> Path:
    if name not in inputs:
        raise BundleError("job.json: inputs", f"has no '{name}'", "Send it with the job")
    return inputs[name]


def _engines(inputs: Mapping[str, Path]) -> dict[str, Path]:
    found = {
        name.removeprefix(ENGINE_PREFIX): place for name, place in inputs.items() if name.startswith(ENGINE_PREFIX)
    }
    if not found:
        raise BundleError("job.json: inputs", f"has no engine ('{ENGINE_PREFIX}NAME')", "Send one with the job")
    return found


def throttled(tell: Callable[[dict[str, Any]], None], every_s: float = 0.5) -> Progress:
    """Progress that is told at most so often: to tell it takes time from what is measured."""
    last_s = -every_s

    def progress(done: int, total: int, text: str) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s >= every_s:
            last_s = now_s
            tell({"progress": [done, total, text]})

    return progress
