"""Precision as a recipe asks for it: layers that stay in higher precision, ranges, what ships, and starts on a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from devices import agent_runtime
from devices.detect import detect_host
from devices.engines.tensorrt_start import ColdAndWarm, Start
from devices.profile import load_profile
from devices.ship import decide_precision
from devices.stage import no_progress
from devices.statistics import Interval
from exporters.onnx_export import export_onnx
from pipeline.latency_source.choose import choose_source
from pipeline.model import build_network
from pipeline.recipe import read_recipe
from pipeline.steps import quantize, runtime
from pipeline.steps.conversion import conversion_config
from pipeline.store import Stored
from pipeline.work import StepInputs, Work
from tests import drill
from tests.exporters.quantize_parts import LOOSE


def metrics_of(store: Path, out: Path) -> dict[str, Any]:
    """Metrics of every step of a run, with its folder."""
    results = json.loads((out / "run.json").read_text())["results"]
    found = {}
    for node, item in results.items():
        folder = store / item["stage"] / item["key"]
        found[node] = json.loads((folder / "result.json").read_text())["metrics"] | {"folder": folder}
    return found


def test_layers_stay_in_higher_precision_by_a_stored_choice(drilled: tuple[Path, Path], tmp_path: Path) -> None:
    """The budget holds on the graph that comes of it, and another run decides by the same file."""
    store, out = drilled[0], tmp_path / "run"
    table = "quantize.mixed={min_sqnr_db=24.0, samples=64}"
    ranges = ("quantize.calibration=percentile", "quantize.percentile=99.9", "quantize.operators=products")
    more = [part for text in (table, *ranges) for part in ("--set", text)]
    done = drill.run(store, out, *more)
    assert done.returncode == 0, done.stderr
    found = metrics_of(store, out)
    for form in ("dense", "compressed"):
        choice = json.loads((found[f"mixed {form}"]["folder"] / "mixed.json").read_text())
        assert choice["chosen"]["sqnr_db"] >= 24.0
        assert found[f"mixed {form}"]["cost"] == "macs"
        assert found[f"quantized {form}"]["kept"] == choice["kept"]
        assert found[f"quantized {form}"]["operators"] == "products"
        # A convolution costs more than the classifier behind it.
        costs = {harm["operation"]: harm["cost"] for harm in choice["harms"]}
        assert costs["Conv"] > costs["Gemm"]
    assert f"compressed: {len(choice['kept'])} of 3 layers stay in higher precision" in done.stdout
    assert "(cost counted in multiply-accumulates)" in done.stdout
    assert (out / "evidence" / "results" / "mixed-compressed" / "mixed.json").is_file()
    plain = metrics_of(*drilled)["quantized dense"]
    assert plain["kept"] == []
    assert plain["operators"] == "all"


def test_what_ships_follows_from_the_figures(drilled: tuple[Path, Path], tmp_path: Path) -> None:
    """Whichever is faster here: the bundle, the verdict and the summary are of the engine that the ratios say."""
    out = tmp_path / "run"
    done = drill.run(drilled[0], out, "--set", "quantize.only_if_faster=true")
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "report.json").read_text())
    (ratio,) = (
        row for row in report["speedups"] if (row["engine"], row["than"]) == ("compressed-int8", "compressed-fp32")
    )
    decision = decide_precision("int8", {"fp32": Interval(ratio["value"], ratio["low"], ratio["high"])})
    assert report["shipped"] == f"compressed-{decision.precision}"
    manifest = json.loads((out / "deploy" / "manifest.json").read_text())
    assert manifest["engine"] == report["shipped"]
    assert f"ships:    {report['shipped']}" in done.stdout
    assert (decision.reason in done.stdout) == (decision.verdict != "faster")
    engine = next(row for row in report["engines"] if row["name"] == report["shipped"])
    assert f"found {engine['size_bytes']:,} bytes" in done.stdout
    ran = {line.split("]")[1].split()[0] for line in done.stderr.splitlines() if line.endswith(" s")}
    # Where INT8 is faster, this decision is that of the drill, and so is the verdict on it.
    assert ran - {"gate"} == {"decide", "bundle", "report", "evidence"}
    assert ("gate" in ran) == (decision.precision != "int8")


def test_starts_are_of_the_engine_that_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting one needs its GPU; which one is started, and what is kept of it, does not."""
    started: list[Path] = []

    def measured(folder: Path) -> ColdAndWarm:
        started.append(folder)
        cold = Start(load_ms=5.0, first_query_ms=900.0, cache_bytes=0)
        return ColdAndWarm(cold=cold, warm=Start(load_ms=5.0, first_query_ms=20.0, cache_bytes=4096))

    monkeypatch.setattr(agent_runtime, "measure_starts", measured)
    work = Work(read_recipe(drill.DRILL), load_profile("rtx-4090"), detect_host(), "espalier run")
    results = {
        f"engine {name}": Stored(tmp_path / name, name, {}, 0.0, "here", reused=False)
        for name in ("compressed-fp16", "compressed-int8")
    }
    results["decision"] = Stored(tmp_path, "decision", {"engine": "compressed-fp16"}, 0.0, "here", reused=False)
    metrics = runtime.start(StepInputs(work, results, tmp_path, no_progress))
    assert started == [tmp_path / "compressed-fp16"]
    assert metrics["lines"] == [
        "cold start: loaded in 5.0 ms, first query 900.0 ms",
        "warm start: loaded in 5.0 ms, first query 20.0 ms",
    ]
    assert json.loads((tmp_path / "starts.json").read_text())["warm"]["cache_bytes"] == 4096


def test_milliseconds_of_a_gpu_that_is_not_here_are_predicted() -> None:
    """Pruning to a latency needs no session options of ONNX Runtime there."""
    profile = load_profile("rtx-4090")
    work = Work(read_recipe(drill.DRILL), profile, detect_host(), "espalier run")
    assert conversion_config(work).options is None
    assert choose_source("auto", profile, work.host, "int8") == "predicted"


def test_of_few_images_those_that_set_no_scale_judge_layers(tmp_path: Path) -> None:
    """Scores are of the same images."""
    wanted = ["quantize.calibration_samples=1200", "quantize.mixed={max_score_drop=100.0, samples=400}"]
    work = Work(read_recipe(drill.DRILL, wanted), load_profile("cpu"), detect_host(), "espalier run")
    network = build_network(work.recipe.model, 0, work.recipe.task)
    export_onnx(network, work.dataset.train.batch(slice(0, 8)), 17, tmp_path / "model.onnx", LOOSE, 1)
    results = {"simplified dense": Stored(tmp_path, "simplified dense", {}, 0.0, "here", reused=False)}
    metrics: Any = quantize.mix(
        StepInputs(work, results, tmp_path, no_progress, options={"source": "simplified dense"})
    )
    assert metrics["judged_on"] == len(work.dataset.train) - 1200
