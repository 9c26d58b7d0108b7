"""Networks to ONNX Runtime engines, and engines timed side by side at one thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from devices.detect import detect_host
from devices.engine_files import ENGINE_FILE, read_engine, read_info, write_info
from devices.engines import onnxruntime
from devices.engines.onnxruntime import open_engine
from devices.latency import LatencyConfig, interleaved_ratio, measuring_alone, pinned, summarize, time_reopened
from exporters.onnx_export import export_onnx
from exporters.parity import ParityLimits
from exporters.quantize import quantize_int8
from exporters.simplify import simplify_onnx
from tests.benchmarks.pruning import networks
from tests.benchmarks.pruning.rebuild import rebuild

_OPSET = 20
_THREADS = 1
_FLOAT = ParityLimits(min_sqnr_db=60.0, min_agreement=1.0)
# Random weights answer nearly alike on every image: only speed is asked of their INT8 form.
_ANY = ParityLimits(min_sqnr_db=-100.0, min_agreement=0.0)
_CALIBRATION_IMAGES = 8
_PARITY_IMAGES = 4
_RESAMPLES = 2000


def build_engine(name: str, folder: Path, int8: bool = False) -> Path:
    """Export, simplify, quantize if asked, and optimize the network of a folder; returns the engine's folder."""
    place = folder / ("engine-int8" if int8 else "engine-fp32")
    if (place / ENGINE_FILE).exists():
        return place
    return engine_of(name, rebuild(name, folder), folder, int8)


def engine_of(name: str, network: nn.Module, folder: Path, int8: bool = False) -> Path:
    """The same of a network at hand, into a folder."""
    place = folder / ("engine-int8" if int8 else "engine-fp32")
    samples = networks.fixed_images(name, _PARITY_IMAGES).numpy()
    exported, simplified = folder / "exported.onnx", folder / "simplified.onnx"
    export_onnx(network, samples, _OPSET, exported, _FLOAT, _THREADS)
    simplify_onnx(exported, simplified, samples, _FLOAT, _THREADS)
    host = detect_host()
    source = simplified
    if int8:
        source = folder / "int8.onnx"
        calibration = networks.fixed_images(name, _CALIBRATION_IMAGES).numpy()
        bits = 7 if host.saturates_int8 else 8
        quantize_int8(simplified, source, calibration, samples, "unsigned", bits, _ANY, _THREADS)
    options = onnxruntime.OrtOptions(provider="CPUExecutionProvider", threads=_THREADS)
    info = onnxruntime.build(source, place / ENGINE_FILE, options, host)
    write_info(place, info)
    return place


def side_by_side(engines: Mapping[str, Path], baseline: str, duration_s: float) -> dict[str, Any]:
    """Median latency of each engine in ms, and how many times as fast as the baseline it is, with intervals.

    All run interleaved in this process at one thread, opened anew some times; the baseline runs twice, and its ratio
    with itself is the harness's own error.
    """
    host = detect_host()
    with measuring_alone(lambda: print("another measurement has the machine ...", flush=True)), pinned(_THREADS):
        shape = read_info(engines[baseline]).input_shape
        image = np.random.default_rng(0).random((1, *shape), dtype=np.float32)

        places = {**engines, "again": engines[baseline]}

        def open_all(names: Sequence[str]) -> dict[str, Callable[[], None]]:
            return {name: open_engine(*read_engine(places[name]), host).bind(image) for name in names}

        timings = time_reopened(list(places), open_all, LatencyConfig(duration_s=duration_s))
    return {
        name: {
            "p50_ms": summarize(found.rounds_ns).p50_ms.as_dict(),
            "gain": interleaved_ratio(timings[baseline], found, _RESAMPLES, 0).as_dict(),
        }
        for name, found in timings.items()
    }
