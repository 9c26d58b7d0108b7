"""A bundle on a board whose Python is too old for the agent: built and measured there by `trtexec`, over ssh."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from devices.agent_job import Job, require_device
from devices.bundle import open_bundle
from devices.classifier import ONNX_PATH, read_engine_info
from devices.detect import Host, matches
from devices.engines import trtexec
from devices.engines.base import EngineInfo
from devices.engines.onnx_external import require_self_contained
from devices.engines.select import tensorrt_options
from devices.errors import DeviceError, ModelError
from devices.files import write_atomic
from devices.latency import LatencySummary, summarize
from devices.profile import Precision, Profile
from devices.quiet import busy_text
from devices.remote.plain import PlainBoard
from devices.remote.shell_telemetry import Watched
from devices.telemetry.watch import watched_lines
from devices.trust.store import Trust

_ROUNDS = 20
_LEAST_OF_A_ROUND = 5


@dataclass(frozen=True, kw_only=True)
class TrtexecJob:
    """What is asked of a board's `trtexec`."""

    seconds: float
    dla_core: int | None = None
    """The DLA core to build for; None: the one of the bundle's recipe, else the GPU."""
    cuda_graph: bool = False
    """Launch each query as a CUDA graph."""
    power_mode: str | None = None
    """Name of the mode that the board should be in; another is said, never switched."""


@dataclass(frozen=True, kw_only=True)
class TrtexecBench:
    """What was measured of one network on one board."""

    engine: EngineInfo
    compute: LatencySummary
    """On the GPU or DLA, copies not in it."""
    whole: LatencySummary
    """With the image copied in and the answer out."""
    host: Host
    other_device: bool
    """Whether the board is not the device of the profile; only when forced."""
    on_gpu_instead: tuple[str, ...]
    """Layers that a DLA left to the GPU."""
    cuda_graph: bool
    """Whether each query was launched as a CUDA graph."""
    telemetry: dict[str, Any]
    """The board right before and after, in the form of `devices.telemetry.watch.Watched`."""
    load_average_before: float | None
    """Of the board, before anything was built there; None where it does not tell."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "engine": self.engine.as_dict(),
            "latency": self.compute.as_dict(),
            "latency_with_copies": self.whole.as_dict(),
            "host": self.host.as_dict(),
            "other_device": self.other_device,
            "on_gpu_instead": list(self.on_gpu_instead),
            "cuda_graph": self.cuda_graph,
            "telemetry": self.telemetry,
            "load_average_before": self.load_average_before,
        }


def bench_by_trtexec(
    board: PlainBoard, profile: Profile, bundle_folder: Path, trust: Trust, job: TrtexecJob, force: bool
) -> TrtexecBench:
    """Verify a deploy bundle, build its ONNX on the board as the profile says, and measure one image there.

    The network is built in the precision of the bundle's engine, with kernels for 2:4 weights where it has such.
    Nothing stays outside the board's cache.
    Raises `BundleError`, `ModelError`, `DeviceError`, `StorageError`, `LostError`.
    """
    bundle = open_bundle(bundle_folder, "deploy", trust)
    ports = trtexec.ports_of_engine(read_engine_info(bundle))
    precision = _precision(str(bundle.manifest.get("engine")))
    core = _dla_core(bundle.manifest, precision) if job.dla_core is None else job.dla_core
    options = tensorrt_options(profile, precision, sparse=_is_sparse(bundle.manifest), dla_core=core)
    command = find_on_board(board)
    host = board_host(board, trtexec.trtexec_version(command, board.run))
    matched = matches(profile, host)
    meant = Job(stage="bench", device=profile, force=force)
    require_device(meant, matched, host.device_tree_model or host.cpu_model)
    load_average = _load_average(board)
    graph = bundle.read(ONNX_PATH)
    require_self_contained(graph, str(bundle_folder / ONNX_PATH))
    place = _sent(board, graph)
    plan, times_file = place.with_suffix(".plan"), place.with_suffix(".times")
    machine, digest = f"{host.machine}-linux", bundle.digests[ONNX_PATH]
    try:
        info, built = trtexec.build(
            command, place, plan, options, ports, machine, digest, board.run, place.with_suffix(".cache")
        )
    except ModelError as error:
        # On the board the file has a digest for a name.
        raise ModelError(str(bundle_folder / ONNX_PATH), error.what, error.fix) from error
    config = trtexec.TrtexecConfig(duration_s=job.seconds, cuda_graph=job.cuda_graph)
    watched = Watched(board.run, job.power_mode)
    times, _ = trtexec.measure(command, plan, info, config, times_file, watched)
    return TrtexecBench(
        engine=info,
        compute=_summary(times.compute_ms),
        whole=_summary(times.latency_ms),
        host=host,
        other_device=not matched,
        on_gpu_instead=() if core is None else trtexec.gpu_layers(built),
        cuda_graph=job.cuda_graph,
        telemetry=watched.found,
        load_average_before=load_average,
    )


def _load_average(board: PlainBoard) -> float | None:
    code, printed = board.run(["cat", "/proc/loadavg"])
    found = re.match(r"\d{1,6}\.\d{1,3}\b", printed)
    return float(found[0]) if code == 0 and found else None


def _sent(board: PlainBoard, onnx_bytes: bytes) -> PurePosixPath:
    """The graph's place on the board, once it is there."""
    with tempfile.TemporaryDirectory(prefix="espalier-trtexec-") as scratch:
        onnx = Path(scratch, ONNX_PATH)
        write_atomic(onnx, onnx_bytes)
        return PurePosixPath(board.send(onnx))


def trtexec_bench_lines(name: str, profile: Profile, found: TrtexecBench) -> list[str]:
    """In words."""
    settings = dict(found.engine.settings)
    built = f"{found.engine.runtime_version} in {settings['precision'].upper()}"
    built += f" for DLA core {settings['dla_core']}" if "dla_core" in settings else ""
    built += ", with kernels for 2:4 weights" if "sparse" in settings else ""
    built += ", as a CUDA graph" if found.cuda_graph else ""
    lines = [
        f"measured by trtexec, TensorRT {built}; one image at a time, ms, with 95 % intervals over blocks of queries"
    ]
    for title, summary in (("computing", found.compute), ("with copies", found.whole)):
        figures = (("p50", summary.p50_ms), ("p90", summary.p90_ms), ("p99", summary.p99_ms))
        shown = "  ".join(f"{text} {value.value:.4f} ({value.low:.4f} to {value.high:.4f})" for text, value in figures)
        lines.append(f"  {title:12} {shown}  max {summary.max_ms:.4f}  {summary.queries} queries")
    if found.on_gpu_instead:
        lines.append(f"  on the GPU instead of the DLA: {', '.join(found.on_gpu_instead)}")
    lines.append(f"measured on board '{name}': {found.host.device_tree_model or found.host.cpu_model}")
    if found.other_device:
        lines.append(f"  NOT a {profile.title}: it was forced, and says nothing about '{profile.name}'")
    busy = busy_text(found.load_average_before or 0.0)
    against = [f"! {busy}"] if busy else []
    return [*lines, "device right before and after", *against, *watched_lines(found.telemetry)]


def find_on_board(board: PlainBoard) -> str:
    """`trtexec` on the board. Raises `DeviceError` where it is not."""
    for place in ("trtexec", *trtexec.PLACES):
        if board.run(["sh", "-c", 'command -v "$1" >/dev/null', "sh", place])[0] == 0:
            return place
    what = f"has no trtexec, neither on its path nor at {trtexec.PLACES[0]}"
    raise DeviceError(board.where, what, "Install TensorRT there (JetPack's package libnvinfer-bin)")


def board_host(board: PlainBoard, version: str) -> Host:
    """What its shell tells of a board. Raises `DeviceError` when it tells nothing."""
    script = "uname -m; uname -sr; nproc; sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo; "
    script += "cat /proc/device-tree/model 2>/dev/null | tr -d '\\000'; exit 0"
    _, printed = board.run(["sh", "-c", script])
    lines = [*printed.split("\n"), ""]
    if len(lines) < 5 or not lines[2].isdigit():
        raise DeviceError(board.where, f"does not say what it is ({printed!r:.80})", "Look at its shell's start files")
    machine, system, cpus, memory_kb, model = lines[:5]
    return Host(
        machine=machine,
        system=system,
        cpu_model=f"processor of {machine}",
        cpu_isa="unknown",
        cpu_has_vnni=False,
        cpus=int(cpus),
        memory_bytes=1024 * int(memory_kb) if memory_kb.isdigit() else None,
        device_tree_model=model.strip() or None,
        gpus=(),
        python="",
        runtimes={"tensorrt": version},
    )


def _is_sparse(manifest: dict[str, Any]) -> bool:
    """Whether the bundle's network was pruned to 2:4, by the recipe that stands in it."""
    prune = (manifest.get("recipe") or {}).get("prune") or {}
    return str(manifest.get("engine")).startswith("compressed-") and prune.get("granularity") == "2:4"


def _dla_core(manifest: dict[str, Any], precision: Precision) -> int | None:
    """The core that the bundle's recipe builds its FP16 engines for."""
    core = ((manifest.get("recipe") or {}).get("engine") or {}).get("dla_core")
    return core if precision == "fp16" and isinstance(core, int) else None


def _precision(engine: str) -> Precision:
    """Of an engine's name, such as 'compressed-int8'."""
    found = re.search(r"[a-z]+\d+$", engine)
    for precision in get_args(Precision):
        if found and found.group() == precision:
            return precision  # type: ignore[no-any-return]
    raise DeviceError("bundle", f"does not say what its engine '{engine:.80}' computes in", "Run the recipe again")


def _summary(times_ms: NDArray[np.float64]) -> LatencySummary:
    """Over blocks of queries that followed one another, which is what differs when a board warms up."""
    rounds = max(1, min(_ROUNDS, len(times_ms) // _LEAST_OF_A_ROUND))
    kept = len(times_ms) // rounds * rounds
    return summarize(np.rint(1e6 * times_ms[:kept]).astype(np.int64).reshape(rounds, -1))
