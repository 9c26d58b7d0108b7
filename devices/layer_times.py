"""Where the time of a query goes: milliseconds by layer, as ONNX Runtime's profiler counts them, and what is left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from devices.detect import Host
from devices.engines.base import EngineInfo, FloatArray
from devices.engines.onnxruntime import open_engine, open_profiled
from devices.engines.ort_nodes import NodeRun
from devices.errors import DeviceError
from devices.latency import LatencyConfig, measure_interleaved, summarize
from devices.statistics import Interval

_SETTLE_QUERIES = 10


@dataclass(frozen=True)
class LayerTime:
    """One node of an engine."""

    name: str
    kernel: str
    """Operator that ran, after fusion; for OpenVINO and TensorRT a part of the graph that was compiled as one."""
    provider: str
    output_shape: tuple[int, ...]
    mean_ms: float
    """Over the middle half of the profiled queries, sorted by this node's time, so that spikes do not count. The
    profiler cuts off at whole microseconds, so a node of a few is told half of one too short.
    """
    share: float
    """Of the median query without the profiler."""


@dataclass(frozen=True)
class LayerTimes:
    """All nodes of an engine, in the order in which they run, against its median query."""

    layers: tuple[LayerTime, ...]
    p50_ms: Interval
    """Of a query without the profiler, which slows each node a little."""
    queries: int
    """Profiled."""

    @property
    def layers_ms(self) -> float:
        """Sum over layers."""
        return sum(layer.mean_ms for layer in self.layers)

    @property
    def overhead_ms(self) -> float:
        """Of the median query, what no node accounts for: the call itself, and the steps from node to node.

        Below 0 where the profiler adds more to the nodes than there is of it.
        """
        return self.p50_ms.value - self.layers_ms

    def by_kernel(self) -> list[tuple[str, int, float]]:
        """Kernel, number of nodes and their milliseconds, the longest first."""
        counts: dict[str, int] = defaultdict(int)
        times: dict[str, float] = defaultdict(float)
        for layer in self.layers:
            counts[layer.kernel] += 1
            times[layer.kernel] += layer.mean_ms
        return [(kernel, counts[kernel], times[kernel]) for kernel in sorted(times, key=lambda name: -times[name])]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "layers": [asdict(layer) for layer in self.layers],
            "p50_ms": self.p50_ms.as_dict(),
            "layers_ms": self.layers_ms,
            "overhead_ms": self.overhead_ms,
            "queries": self.queries,
        }


def measure_layers(
    content: bytes, info: EngineInfo, host: Host, queries: int = 200, seconds: float = 1.0
) -> LayerTimes:
    """Time each node of an engine in this many queries of one image, and the engine without the profiler.

    Raises `DeviceError` for an engine of another runtime than ONNX Runtime, or of another host.
    """
    if info.runtime != "onnxruntime":
        raise DeviceError("engine", f"is of {info.runtime}", "Times by layer are taken of ONNX Runtime engines only")
    image: FloatArray = np.random.default_rng(0).random((1, *info.input_shape), dtype=np.float32)
    plain = {"engine": open_engine(content, info, host).bind(image)}
    p50_ms = summarize(measure_interleaved(plain, LatencyConfig(duration_s=seconds))["engine"]).p50_ms
    with open_profiled(content, info, host) as (engine, nodes_of):
        query = engine.bind(image)
        for _ in range(_SETTLE_QUERIES + queries - 1):
            query()
        runs = nodes_of()
    return LayerTimes(_mean_by_node(runs, queries, p50_ms.value), p50_ms, queries)


def _mean_by_node(runs: Sequence[NodeRun], queries: int, p50_ms: float) -> tuple[LayerTime, ...]:
    """Interquartile means over the last queries; each query runs the same nodes in the same order."""
    each = len(runs) // (_SETTLE_QUERIES + queries)
    kept = runs[len(runs) - each * queries :]
    times_us = np.array([run.duration_us for run in kept], dtype=np.float64).reshape(queries, each)
    layers = []
    middle = np.sort(times_us, axis=0)[queries // 4 : queries - queries // 4]
    for run, mean_us in zip(kept[:each], middle.mean(axis=0), strict=True):
        mean_ms = float(mean_us) / 1e3
        layers.append(LayerTime(run.name, run.operator, run.provider, run.output_shape, mean_ms, mean_ms / p50_ms))
    return tuple(layers)


def layer_lines(times: LayerTimes, most: int | None = None) -> list[str]:
    """A table: layers in order (the `most` longest, if given), then kernels, then what is left."""
    shown = times.layers
    if most is not None and len(shown) > most:
        least = sorted((layer.mean_ms for layer in shown), reverse=True)[most - 1]
        shown = tuple(layer for layer in shown if layer.mean_ms >= least)[:most]
    width = max((len(layer.name[:40]) for layer in shown), default=8)
    lines = [f"{'layer':{width}}  {'kernel':24} {'output':>18} {'ms':>9} {'share':>7}"]
    for layer in shown:
        shape = "x".join(map(str, layer.output_shape))
        lines.append(
            f"{layer.name[:40]:{width}}  {layer.kernel[:24]:24} {shape:>18} {layer.mean_ms:9.4f} {layer.share:7.1%}"
        )
    lines += ["", "by kernel:"]
    for kernel, count, spent_ms in times.by_kernel():
        lines.append(f"  {kernel[:30]:30} {count:4} nodes {spent_ms:9.4f} ms {spent_ms / times.p50_ms.value:7.1%}")
    whole = times.p50_ms
    lines.append(f"  {'all layers':30} {len(times.layers):4} nodes {times.layers_ms:9.4f} ms")
    lines.append(f"  {'median query, unprofiled':41} {whole.value:9.4f} ms ({whole.low:.4f} to {whole.high:.4f})")
    lines.append(f"  {'overhead, which is the difference':41} {times.overhead_ms:9.4f} ms")
    return lines
