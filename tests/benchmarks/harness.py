"""The harness against itself and against a bare loop: `python -m tests.benchmarks.harness`.

1. One engine against itself: 100 interleaved pairs at one thread; how far the ratio's 95 % interval is from 1.
2. Its median beside that of a bare timed loop around ONNX Runtime with an IO binding, interleaved.
3. What it adds to a query.
4. What telemetry at 10 Hz takes of a core, and whether the median moves while it samples.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from devices.detect import detect_host
from devices.engine_files import ENGINE_FILE, read_engine
from devices.engines.onnxruntime import open_engine
from devices.latency import LatencyConfig, _visit, interleaved_ratio, measuring_alone, pinned, time_reopened
from devices.statistics import Interval, bootstrap_ratio
from devices.telemetry.sampler import RawSamples, SamplerConfig, sampling
from tests.devices.parts import build_engine
from tests.devices.telemetry.trees import expand

PAIRS = 100
RESAMPLES = 2000
LAYERS, CHANNELS, SIZE = 6, 32, 32
Query = Callable[[], None]


def build_network(path: Path) -> Path:
    """Convolutions (N, 32, 32, 32), a pooling and 10 classes: about a millisecond on one thread."""
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "image"
    for index in range(LAYERS):
        kernel = rng.normal(0, 0.06, (CHANNELS, 3 if index == 0 else CHANNELS, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{index}"))
        nodes.append(helper.make_node("Conv", [last, f"w{index}"], [f"c{index}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [last := f"r{index}"]))
    weights.append(numpy_helper.from_array(rng.normal(0, 0.1, (CHANNELS, 10)).astype(np.float32), "head"))
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 10])
    graph = helper.make_graph(nodes, "harness", [image], [logits], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def bare_query(engine_path: Path) -> Query:
    """A session of the same file with an IO binding, by ONNX Runtime's own calls."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(engine_path), options, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).random((1, 3, SIZE, SIZE), dtype=np.float32)
    binding = session.io_binding()
    binding.bind_cpu_input("image", image)
    binding.bind_output("logits", "cpu")

    def query() -> None:
        session.run_with_iobinding(binding)

    return query


def bare_loop(query: Query, count: int) -> NDArray[np.int64]:
    """A bare timed loop, ns of each call."""
    times = []
    for _ in range(2):
        query()
    for _ in range(count):
        before = time.perf_counter_ns()
        query()
        times.append(time.perf_counter_ns() - before)
    return np.array(times)


def same_engine_twice(open_one: Callable[[], Query], repeats: int) -> list[Interval]:
    """The interval of the ratio of one engine to itself over 100 pairs, so many times."""
    found = []
    for seed in range(repeats):
        # Lasts as long as 100 rounds do.
        config = LatencyConfig(duration_s=0.1, least_rounds=PAIRS, seed=seed)
        timings = time_reopened(("one", "two"), lambda names: {name: open_one() for name in names}, config)
        found.append(interleaved_ratio(timings["one"], timings["two"], RESAMPLES, seed))
    return found


def beside_bare_loop(engine: Query, bare: Query, rounds: int) -> tuple[Interval, float, float]:
    """Median of the harness over that of the bare loop, interleaved; and both in ms."""
    rng, count = np.random.default_rng(0), 3
    rows: dict[str, list[NDArray[np.int64]]] = {"harness": [], "bare": []}
    for _ in range(rounds):
        for name in rng.permutation(list(rows)):
            rows[name].append(np.diff(_visit(engine, count)) if name == "harness" else bare_loop(bare, count))
    ours, theirs = np.stack(rows["harness"]), np.stack(rows["bare"])
    return bootstrap_ratio(ours, theirs, RESAMPLES, 0), float(np.median(ours)) / 1e6, float(np.median(theirs)) / 1e6


def cost_per_query(visits: int) -> tuple[float, float]:
    """Of a query that does nothing: what is counted for it, and what it takes in all, in µs; medians over visits."""

    def nothing() -> None:
        pass

    counted, taken = [], []
    for _ in range(visits):
        before = time.perf_counter_ns()
        stamps = _visit(nothing, 50)
        taken.append((time.perf_counter_ns() - before) / 52e3)
        counted.append(float(np.median(np.diff(stamps))) / 1e3)
    return float(np.median(counted)), float(np.median(taken))


def sampling_shift(query: Query, cpus: tuple[int, ...], root: Path, blocks: int) -> tuple[Interval, Interval]:
    """Median while telemetry is sampled over that while it is not, in blocks of half a second in random order; and
    the same of two kinds of blocks that are both without, which is the error of this comparison."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[NDArray[np.int64]]] = {"on": [], "off": [], "off too": []}
    for _ in range(blocks):
        for name in rng.permutation(list(rows)):
            with ExitStack() as stack:
                if name == "on":
                    stack.enter_context(sampling(SamplerConfig(root=root, cpus=cpus)))
                until, times = time.perf_counter() + 0.5, []
                while time.perf_counter() < until:
                    times.append(np.diff(_visit(query, 3)))
                rows[name].append(np.array([np.median(np.concatenate(times))]).astype(np.int64))
    on, off, again = (np.stack(rows[name]) for name in rows)
    return bootstrap_ratio(on, off, RESAMPLES, 0), bootstrap_ratio(again, off, RESAMPLES, 0)


def sampling_cost(root: Path, cpus: tuple[int, ...], seconds: float) -> RawSamples:
    """A sampler at 10 Hz, beside nothing."""
    with sampling(SamplerConfig(root=root, cpus=cpus)) as found:
        time.sleep(seconds)
    return found[0]


def measure(scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    host = detect_host()
    build_engine(scratch / "engine", build_network(scratch / "network.onnx"), host)
    board = expand("orin-nano", scratch / "board")
    image = np.random.default_rng(0).random((1, 3, SIZE, SIZE), dtype=np.float32)
    with measuring_alone(lambda: print("another measurement has the machine; waiting")), pinned(1) as cpus:

        def open_one() -> Query:
            return open_engine(*read_engine(scratch / "engine"), host).bind(image)

        pairs = same_engine_twice(open_one, options.repeats)
        one = open_one()
        ratio, ours_ms, bare_ms = beside_bare_loop(one, bare_query(scratch / "engine" / ENGINE_FILE), options.rounds)
        counted_us, taken_us = cost_per_query(2000)
        shift, shift_error = sampling_shift(one, cpus, board, options.blocks)
        costs = {"orin-nano tree": sampling_cost(board, cpus, 10), "this machine": sampling_cost(Path("/"), cpus, 10)}
    return {
        "cpu": host.cpu_model,
        "load_average": os.getloadavg()[0],
        "same_engine_twice": [interval.as_dict() for interval in pairs],
        "beside_bare_loop": {**ratio.as_dict(), "harness_ms": ours_ms, "bare_ms": bare_ms},
        "cost_per_query_us": {"counted": counted_us, "in_all": taken_us},
        "sampling_shift": {"on_over_off": shift.as_dict(), "off_over_off": shift_error.as_dict()},
        "sampling_cost": {
            name: {"cpu_share": found.cpu_share, "channels": len(found.names), "samples": len(found.times_ns)}
            for name, found in costs.items()
        },
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The figures beside what they must reach."""
    pairs, bare = found["same_engine_twice"], found["beside_bare_loop"]
    widest = [max(pair["high"] - 1, 1 - pair["low"]) for pair in pairs]
    held = sum(pair["low"] <= 1 <= pair["high"] for pair in pairs)
    on, off = (found["sampling_shift"][name] for name in ("on_over_off", "off_over_off"))
    cost = found["cost_per_query_us"]
    rows = [
        f"{found['cpu']}, load average {found['load_average']:.2f}",
        f"A/A, {PAIRS} pairs: the interval holds 1 in {held} of {len(pairs)} runs; its end farther from 1 is "
        f"{100 * min(widest):.2f} % off at best, {100 * np.median(widest):.2f} % in the middle, "
        f"{100 * max(widest):.2f} % at worst (must: 1.5 %)",
        f"p50 over that of a bare loop: {bare['value']:.4f} ({bare['low']:.4f} to {bare['high']:.4f}); "
        f"{bare['harness_ms']:.4f} and {bare['bare_ms']:.4f} ms (must: within 2 %)",
        f"cost of a query: {cost['counted']:.2f} µs counted, {cost['in_all']:.2f} µs in all (must: 5 µs)",
        shift_line(on, off),
    ]
    for name, row in found["sampling_cost"].items():
        share = 100 * row["cpu_share"]
        rows.append(f"telemetry at 10 Hz, {row['channels']} channels of {name}: {share:.3f} % of a core (must: 0.5 %)")
    return rows


def shift_line(on: dict[str, float], off: dict[str, float]) -> str:
    """How far sampling moves the median, beside what two halves without it differ by."""
    most = max(off["high"] - 1, 1 - off["low"])
    shift = abs(on["value"] - 1)
    with_it, without = (f"{each['value']:.4f} ({each['low']:.4f} to {each['high']:.4f})" for each in (on, off))
    held = "no more" if shift <= most else "MORE"
    return (
        f"p50 with telemetry at 10 Hz over p50 without: {with_it}, a shift of {100 * shift:.2f} %; "
        f"without over without (A/A): {without}, up to {100 * most:.2f} % off: {held} than that (must: no more)"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10, help="runs of 100 pairs (10)")
    parser.add_argument("--rounds", type=int, default=300, help="rounds beside the bare loop (300)")
    parser.add_argument("--blocks", type=int, default=20, help="blocks with and without telemetry (20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(Path(scratch), options)
    print("\n".join(lines(found)))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
