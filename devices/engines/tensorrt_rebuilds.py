"""The same engine built several times: two builds of one graph may choose other kernels, and answer otherwise."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from devices.detect import Host
from devices.engine_files import read_engine
from devices.engines.tensorrt import open_engine
from devices.engines.tensorrt_options import TITLES, TensorRtOptions
from devices.engines.tensorrt_process import build
from devices.errors import DataError, DeviceError
from devices.latency import LatencyConfig, measure_interleaved

_IMAGES = 8


@dataclass(frozen=True, kw_only=True)
class Rebuilds:
    """What differs between builds of one graph."""

    title: str
    sha256: tuple[str, ...]
    """Of each plan."""
    size_bytes: tuple[int, ...]
    build_s: tuple[float, ...]
    p50_ms: tuple[float, ...]
    """Median latency of each, run interleaved; empty where they could not be run here."""
    max_difference: float | None
    """Largest difference of an answer from the first build's; None where they could not be run here."""
    not_run: str
    """Why they were not run; empty where they were."""

    @property
    def equal(self) -> bool:
        """Whether all plans are the same bytes."""
        return len(set(self.sha256)) == 1

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {**asdict(self), "equal": self.equal}


def compare_rebuilds(
    onnx_path: Path, folder: Path, options: TensorRtOptions, host: Host, count: int, latency: LatencyConfig
) -> Rebuilds:
    """Build `count` times, each without the times of another, into folders of their own, and compare.

    Where the engines run on this machine, their latency (interleaved) and answers are compared too; elsewhere sizes
    and digests. Raises `DataError` for fewer than two builds, and as `build` does.
    """
    if count < 2:
        raise DataError("builds", f"{count} cannot be compared", "Give 2 or more")
    places = [folder / f"build-{index}" for index in range(count)]
    reports = [build(onnx_path, place, options) for place in places]
    p50_ms: tuple[float, ...] = ()
    difference, not_run = None, ""
    try:
        p50_ms, difference = _compare_running(places, host, latency)
    except DeviceError as cause:
        not_run = str(cause)
    return Rebuilds(
        title=TITLES[options.module],
        sha256=tuple(report.sha256 for report in reports),
        size_bytes=tuple(report.size_bytes for report in reports),
        build_s=tuple(report.build_s for report in reports),
        p50_ms=p50_ms,
        max_difference=difference,
        not_run=not_run,
    )


def rebuild_lines(found: Rebuilds) -> list[str]:
    """The comparison as text, a line each."""
    count, different = len(found.sha256), len(set(found.sha256))
    sizes = f"{min(found.size_bytes) / 1e6:.2f} to {max(found.size_bytes) / 1e6:.2f} MB"
    same = "all the same bytes" if found.equal else f"{different} different plans"
    lines = [f"{found.title}, {count} builds: {same}, {sizes}, {min(found.build_s):.1f} to {max(found.build_s):.1f} s"]
    if found.not_run:
        return [*lines, f"not run here: {found.not_run}"]
    spread = (max(found.p50_ms) / min(found.p50_ms) - 1) * 100
    return [*lines, f"median latency differs by {spread:.1f} %, answers by up to {found.max_difference:.2g}"]


def _compare_running(places: list[Path], host: Host, latency: LatencyConfig) -> tuple[tuple[float, ...], float]:
    engines = [open_engine(*read_engine(place), host) for place in places]
    images = np.random.default_rng(latency.seed).random((_IMAGES, *engines[0].info.input_shape), dtype=np.float32)
    answers = [engine.run_all(images) for engine in engines]
    differences = [np.abs(one - first).max() for other in answers for one, first in zip(other, answers[0], strict=True)]
    least = (engines[0].info.batches or (1, 1, 1))[0]
    query = np.repeat(images[:1], least, axis=0)
    queries = {str(index): engine.bind(query) for index, engine in enumerate(engines)}
    samples = measure_interleaved(queries, latency)
    return tuple(float(np.median(samples[name])) / 1e6 for name in queries), float(max(differences))
