"""Where the time of a query goes: milliseconds by layer, as ONNX Runtime's profiler counts them, and what is left."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.detect import Host
from devices.engines.base import EngineInfo, FloatArray
from devices.engines.onnxruntime import open_engine, open_profiled
from devices.engines.ort_nodes import NodeRun
from devices.errors import DeviceError
from devices.latency import no_garbage_collection, summarize
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
    """Over the middle half of the profiled queries, sorted by this node's time, so that spikes do not count; less what
    the profiler adds to a node. It counts whole microseconds, so a node of a few is known coarsely.
    """
    share: float
    """Of the median query without the profiler."""


@dataclass(frozen=True)
class LayerTimes:
    """All nodes of an engine, in the order in which they run, against its median query."""

    layers: tuple[LayerTime, ...]
    p50_ms: Interval
    """Of a query without the profiler."""
    profiler_us: float
    """Taken off each node as the profiler's own: the least that any node showed, and no more than a query took longer
    under the profiler, divided by its nodes.
    """
    queries: int
    """Profiled."""

    @property
    def layers_ms(self) -> float:
        """Sum over layers."""
        return sum(layer.mean_ms for layer in self.layers)

    @property
    def overhead_ms(self) -> float:
        """Of the median query, what no node accounts for: the call itself, and the steps from node to node.

        It is as exact as what is taken off for the profiler, and may come out below 0 where nodes are many and short.
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
            "profiler_us": self.profiler_us,
            "queries": self.queries,
        }


def measure_layers(content: bytes, info: EngineInfo, host: Host, queries: int = 400) -> LayerTimes:
    """Time each node of an engine in this many queries of one image, in turn with queries without the profiler.

    Raises `DeviceError` for an engine of another runtime than ONNX Runtime, or of another host.
    """
    if info.runtime != "onnxruntime":
        raise DeviceError("engine", f"is of {info.runtime}", "Times by layer are taken of ONNX Runtime engines only")
    image: FloatArray = np.random.default_rng(0).random((1, *info.input_shape), dtype=np.float32)
    plain = open_engine(content, info, host).bind(image)
    with open_profiled(content, info, host) as (engine, nodes_of):
        # Both have run once when they are bound.
        plain_ns, profiled_ns = _take_turns(plain, engine.bind(image), queries)
        runs = nodes_of()
    p50_ms = summarize(plain_ns[:, None]).p50_ms
    each = len(runs) // (1 + _SETTLE_QUERIES + queries)
    kept = runs[len(runs) - each * queries :]
    means_us = _means_us(kept, queries)
    longer_us = float(np.median(profiled_ns - plain_ns)) / 1e3 / each
    profiler_us = min(float(means_us.min()), max(0.0, longer_us))
    layers = tuple(_layer(run, mean_us - profiler_us, p50_ms) for run, mean_us in zip(kept, means_us, strict=False))
    return LayerTimes(layers, p50_ms, profiler_us, queries)


def _take_turns(
    plain: Callable[[], None], profiled: Callable[[], None], queries: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Times of both in ns, (queries,) each, after a few that do not count."""
    stamps_ns = np.empty((_SETTLE_QUERIES + queries, 3), dtype=np.int64)
    with no_garbage_collection():
        for row in stamps_ns:
            row[0] = time.perf_counter_ns()
            plain()
            row[1] = time.perf_counter_ns()
            profiled()
            row[2] = time.perf_counter_ns()
    spent_ns = np.diff(stamps_ns[_SETTLE_QUERIES:], axis=1)
    return spent_ns[:, 0], spent_ns[:, 1]


def _means_us(runs: Sequence[NodeRun], queries: int) -> NDArray[np.float64]:
    """Interquartile mean of each node, (nodes,); each query runs the same nodes in the same order."""
    times_us = np.array([run.duration_us for run in runs], dtype=np.float64).reshape(queries, -1)
    middle = np.sort(times_us, axis=0)[queries // 4 : queries - queries // 4]
    return np.asarray(middle.mean(axis=0))


def _layer(run: NodeRun, mean_us: float, p50_ms: Interval) -> LayerTime:
    mean_ms = float(mean_us) / 1e3
    return LayerTime(run.name, run.operator, run.provider, run.output_shape, mean_ms, mean_ms / p50_ms.value)


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
    share = times.overhead_ms / whole.value
    lines.append(f"  {'overhead, which is the difference':41} {times.overhead_ms:9.4f} ms {share:7.1%}")
    lines.append(f"  the profiler's own {times.profiler_us:.2f} us a node are taken off")
    return lines
