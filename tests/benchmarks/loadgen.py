"""Beside MLPerf's own LoadGen: `python -m tests.benchmarks.loadgen`, where `mlcommons-loadgen` is installed.

1. What early stopping discards and reports, on LoadGen's own latencies, for random counts and percentiles.
2. SingleStream and MultiStream of one engine, ours and LoadGen's in turns: the ratio of what they report.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.detect import detect_host
from devices.early_stopping import discarded_queries, percentile_bound
from devices.engine_files import read_engine
from devices.engines.onnxruntime import open_engine
from devices.latency import measuring_alone, pinned
from devices.scenarios import ScenarioConfig
from devices.scenarios_run import run_multi_stream, run_single_stream
from tests.benchmarks.harness import SIZE, build_network
from tests.devices.parts import build_engine

_SAMPLES = 64


def run_loadgen(
    lg: Any, scenario: str, query: Callable[[], None], folder: Path, **settings: float
) -> tuple[str, NDArray[np.int64]]:
    """LoadGen's summary, and the latencies of its queries in ns."""
    wanted = lg.TestSettings()
    wanted.scenario, wanted.mode = getattr(lg.TestScenario, scenario), lg.TestMode.PerformanceOnly
    for name, value in settings.items():
        setattr(wanted, name, value)

    def issue(samples: list[Any]) -> None:
        query()
        lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, 0, 0) for sample in samples])

    sut = lg.ConstructSUT(issue, lambda: None)
    qsl = lg.ConstructQSL(_SAMPLES, _SAMPLES, lambda _: None, lambda _: None)
    output, log = lg.LogOutputSettings(), lg.LogSettings()
    output.outdir, output.copy_summary_to_stdout = str(folder), False
    log.log_output, log.enable_trace = output, True
    lg.StartTestWithLogSettings(sut, qsl, wanted, log)
    lg.DestroyQSL(qsl)
    lg.DestroySUT(sut)
    trace = (folder / "mlperf_log_trace.json").read_text()
    # Each sample's row ends with its latency; MultiStream's samples of a query are taken together by LoadGen itself.
    found = re.findall(r'"name"\s*:\s*"Sample".*?"dur"\s*:\s*([\d.]+)', trace)
    return (folder / "mlperf_log_summary.txt").read_text(), np.array([round(float(us) * 1e3) for us in found])


def early_stopping_agrees(lg: Any, folder: Path, cases: int) -> tuple[int, int, int]:
    """Cases, cases that discard as many, and cases whose bound is LoadGen's to 1 ns of its trace's resolution."""
    rng, discards, bounds = np.random.default_rng(0), 0, 0
    for _ in range(cases):
        percentile = float(rng.choice([0.5, 0.8, 0.9, 0.95, 0.97, 0.99, 0.999]))
        queries = int(np.exp(rng.uniform(np.log(10), np.log(20_000))))
        summary, latencies = run_loadgen(
            lg,
            "SingleStream",
            lambda: None,
            folder,
            single_stream_target_latency_percentile=percentile,
            single_stream_expected_latency_ns=1,
            min_duration_ms=0,
            min_query_count=queries,
            max_query_count=queries,
        )
        said = re.search(r"Would discard (\d+) highest", summary)
        discards += (int(said.group(1)) if said else None) == discarded_queries(queries, percentile)
        bound = re.search(r"percentile estimate: (\d+)", summary) if said else None
        ours = percentile_bound(latencies, percentile)
        bounds += (bound is None) == (ours is None) and (
            bound is None or ours is None or abs(ours.value - int(bound.group(1))) <= 1
        )
    return cases, discards, bounds


def compare_streams(lg: Any, folder: Path, seconds: float, turns: int) -> dict[str, list[float]]:
    """What ours reports over what LoadGen does, by scenario, in turns."""
    host = detect_host()
    build_engine(folder / "engine", build_network(folder / "network.onnx"), host)
    engine = open_engine(*read_engine(folder / "engine"), host)
    one, eight = (engine.bind(np.zeros((batch, 3, SIZE, SIZE), np.float32)) for batch in (1, 8))
    config = ScenarioConfig(min_duration_s=seconds)
    least = {"min_duration_ms": int(seconds * 1e3), "min_query_count": 100, "multi_stream_samples_per_query": 8}
    ratios: dict[str, list[float]] = {"SingleStream": [], "MultiStream": []}
    for _ in range(turns):
        for name in ratios:
            query = one if name == "SingleStream" else eight
            expected = {f"{'single' if query is one else 'multi'}_stream_expected_latency_ns": 1_000_000}
            ours = run_single_stream(one, config) if query is one else run_multi_stream(eight, 8, config)
            summary, _ = run_loadgen(lg, name, query, folder, **least, **expected)
            said = re.search(r"percentile estimate: (\d+)", summary)
            if said and ours.bound_ms:
                ratios[name].append(ours.bound_ms * 1e6 / int(said.group(1)))
    return ratios


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200, help="random counts and percentiles (200)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run (3)")
    parser.add_argument("--turns", type=int, default=7, help="runs of each scenario (7)")
    options = parser.parse_args()
    try:
        lg = importlib.import_module("mlperf_loadgen")
    except ImportError:
        sys.exit("LoadGen is not installed: pip install mlcommons-loadgen, in an environment of its own")
    with tempfile.TemporaryDirectory() as scratch:
        cases, discards, bounds = early_stopping_agrees(lg, Path(scratch), options.cases)
        print(f"early stopping: {discards} of {cases} cases discard as many, {bounds} report the same latency")
        with measuring_alone(lambda: print("another measurement has the machine; waiting")), pinned(1):
            ratios = compare_streams(lg, Path(scratch), options.seconds, options.turns)
    for name, found in ratios.items():
        print(f"{name}: ours over LoadGen's {np.median(found):.4f} ({json.dumps([round(r, 4) for r in found])})")


if __name__ == "__main__":
    main()
