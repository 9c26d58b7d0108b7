"""Engines built on the device they run on, and their answers to images whose right ones the host knows."""

from __future__ import annotations

import io
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from devices.agent_job import Job, require_device
from devices.agent_lock import session
from devices.detect import Host, detect_host, matches
from devices.engine_files import ENGINE_FILE, engine_name, read_engine, read_info, write_info
from devices.engines import onnxruntime
from devices.engines.base import FloatArray
from devices.engines.select import open_engine, ort_options, tensorrt_options
from devices.errors import DataError, DeviceError
from devices.files import write_atomic
from devices.profile import Precision, Profile, load_profile
from devices.recognise import recognise
from devices.stage import Progress, StageResult, no_progress

ONNX_FILE = "model.onnx"
IMAGES_FILE = "images.npy"
ANSWERS_FILE = "answers-{}.npy"


@dataclass(frozen=True, kw_only=True)
class BuildJob:
    """How an engine is built, beyond what the device's profile says."""

    precision: Precision = "fp32"
    """What the graph computes in; TensorRT has to know."""
    batches: tuple[int, int, int] = (1, 1, 1)
    """Least, best and most images of a query, for TensorRT."""
    sparse: bool = False
    """Whether weights are 2:4."""
    dla_core: int | None = None
    """The DLA core that TensorRT runs it on; None: the GPU."""


def build_on_device(
    onnx_path: Path,
    images_folder: Path | None,
    profile: Profile,
    config: BuildJob,
    host: Host,
    folder: Path,
    progress: Progress,
    kept: Path | None = None,
) -> StageResult[Path]:
    """Build an ONNX file as the profile says, and run the engine on `images.npy` (N, C, H, W) where there are any.

    The answers, one file for each output, let the host prove parity with what the graph says; nobody else on the
    device could. `kept` is a folder for timings of TensorRT. Raises `ModelError`, `DeviceError`, `DataError`.
    """
    progress(0, 2, "building")
    metrics = build_engine(onnx_path, folder, profile, config, host, kept)
    if images_folder is not None:
        progress(1, 2, "answering")
        metrics["answers"] = _answer(folder, images_folder / IMAGES_FILE, host)
    return StageResult(folder, metrics)


def build_here(
    onnx_path: Path, folder: Path, device: str | None, force: bool, config: BuildJob, cache: str
) -> dict[str, object]:
    """Build an engine for the device of that name; None: for what this device is.

    Timings of TensorRT's kernels are kept in `cache`, the agent's folder, as those of jobs from other hosts are.
    Raises `DeviceError`, `ModelError`, `StorageError`.
    """
    profile, host = device_here("build", device, force)
    with ExitStack() as held:
        # ONNX Runtime keeps nothing: no folder is made for it.
        opened = None if profile.engine.runtime == "onnxruntime" else held.enter_context(session(cache)).cache
        kept = opened.root / "kept" if opened else None
        result = build_on_device(onnx_path, None, profile, config, host, folder, no_progress, kept)
    size_bytes = (folder / engine_name(read_info(folder))).stat().st_size
    return {**result.metrics, "device": profile.name, "folder": str(folder), "size_bytes": size_bytes}


def device_here(stage: str, device: str | None, force: bool) -> tuple[Profile, Host]:
    """The profile of that name, or of what this device is, and the device. Raises `DeviceError` when they differ.

    Without a name it is the one profile that says most: a board or a computer with a GPU is a CPU too.
    """
    host = detect_host()
    if device:
        profile = load_profile(device)
        machine = host.device_tree_model or host.cpu_model
        require_device(Job(stage=stage, device=profile, force=force), matches(profile, host), machine)
        return profile, host
    fitting = [found.profile for found in recognise(host)]
    special = [profile for profile in fitting if profile.kind != "cpu"] or fitting
    if len(special) != 1:
        names = ", ".join(profile.name for profile in special) or "no profile"
        raise DeviceError("device", f"{names} describes this host ({host.cpu_model})", "Name one with --device")
    return special[0], host


def build_engine(
    onnx_path: Path, folder: Path, profile: Profile, config: BuildJob, host: Host, kept: Path | None
) -> dict[str, object]:
    """Build by the library that the profile names. Returns what the engine is, and what building told."""
    if profile.engine.runtime == "onnxruntime":
        if config.dla_core is not None:
            raise DeviceError("DLA", f"a {profile.title} has none", "Leave the core out")
        info = onnxruntime.build(onnx_path, folder / ENGINE_FILE, ort_options(profile), host)
        write_info(folder, info)
        return {"engine": info.as_dict()}
    from devices.engines import tensorrt_process

    options = tensorrt_options(profile, config.precision, config.batches, config.sparse, config.dla_core)
    report = tensorrt_process.build(onnx_path, folder, options, kept / "timings" if kept else None)
    told = {name: value for name, value in asdict(report).items() if name != "info"}
    return {**told, "engine": report.info.as_dict(), "lines": tensorrt_process.build_lines(report)}


def keep_graph(onnx_path: Path, folder: Path, profile: Profile, config: BuildJob, host: Host) -> dict[str, object]:
    """The graph in an engine's place, for a board where `trtexec` builds an engine of it. Returns what it is.

    Raises `DeviceError` for what the board cannot do by its profile, `ModelError` for a graph that does not open.
    """
    tensorrt_options(profile, config.precision, config.batches, config.sparse, config.dla_core)
    info = onnxruntime.keep(onnx_path, folder / ENGINE_FILE, host)
    write_info(folder, info)
    return {"engine": info.as_dict()}


def _answer(folder: Path, images_path: Path, host: Host) -> list[str]:
    """Write every output of the images, (N, ...) each; returns the files' names."""
    images = _read_images(images_path)
    names = []
    for index, answer in enumerate(open_engine(*read_engine(folder), host).run_all(images)):
        buffer = io.BytesIO()
        np.save(buffer, answer, allow_pickle=False)
        names.append(ANSWERS_FILE.format(index))
        write_atomic(folder / names[-1], buffer.getvalue())
    return names


def _read_images(path: Path) -> FloatArray:
    try:
        with open(path, "rb") as stream:
            return np.asarray(np.lib.format.read_array(stream, allow_pickle=False), dtype=np.float32)
    # ValueError, and what else the header's parser lets through.
    except Exception as cause:
        raise DataError(str(path), f"cannot be read as a numpy array ({cause})", "Send it again") from cause
