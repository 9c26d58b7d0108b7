"""How much faster than the dense FP32 engine the shipped one is on this CPU, at one thread: `make bench-cpu`.

ResNet-20 on CIFAR-10 by `recipes/cifar10-resnet20-fast.toml`, pruned to so many times the dense network's speed (data
and weights are the user's; half an hour each where nothing is stored), and the shape of ResNet-50 with random weights,
of which only time is asked. The dense INT8 engine always stands beside, and a table by layer says where the time goes.

    python -m tests.benchmarks.cpu [--data ARCHIVE --weights FILE] [--speedups 4,6] [--epochs 30] [--only resnet50]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from devices.detect import detect_host
from devices.engine_files import read_engine
from devices.errors import RecipeError
from devices.files import digest_file, write_json
from devices.latency import measuring_alone, pinned
from devices.layer_times import LayerTimes, layer_lines, measure_layers
from devices.profile import load_profile
from devices.statistics import Interval
from pipeline.model import WEIGHTS_FILE
from pipeline.run_folder import RUN_FILE
from tests.benchmarks.pruning import data, networks, ours
from tests.benchmarks.pruning.measure import build_engine, side_by_side

ROOT = Path(__file__).parent.parent.parent
_RECIPE = ROOT / "recipes" / "cifar10-resnet20-fast.toml"
_LONGEST = 12
RESNET50: dict[str, dict[str, Any]] = {
    "half the channels": {"keep_ratio": 0.5},
    "15 percent of the MACs": {"target_macs": 0.15, "scope": "local"},
}


def dense_ms(options: argparse.Namespace) -> float:
    """Median latency of dense ResNet-20 in FP32."""
    dense = data.dense_resnet20(options.weights, options.out / "dense-resnet20")
    found = side_by_side({"dense": build_engine("resnet20", dense)}, "dense", options.duration / 4)
    return float(found["dense"]["p50_ms"]["value"])


def resnet20(options: argparse.Namespace, target_ms: float, out: Path) -> dict[str, Any] | None:
    """Run the recipe to these milliseconds, which prints its figures; returns what its report says.

    None where no network is that fast, which the run has said.
    """
    overrides = {
        "data.args.path": options.data,
        "model.weights": options.weights,
        "prune.target_latency_ms": target_ms,
        "finetune.epochs": options.epochs,
        "measure.duration_s": options.duration,
    }
    settings = [part for key, value in overrides.items() for part in ("--set", f"{key}={value}")]
    more = [part for text in options.set for part in ("--set", text)]
    command = [sys.executable, "-m", "pipeline.cli", "run", str(_RECIPE), "--out", str(out)]
    done = subprocess.run([*command, "--store", str(options.store), *settings, *more], cwd=ROOT, check=False)
    if done.returncode == RecipeError.exit_code:
        return None
    # The gate may refuse a row, which is then looked at all the same.
    if done.returncode not in (0, 10):
        sys.exit(done.returncode)
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def _times(gain: Interval) -> str:
    return f"{gain.value:.2f} times as fast as dense-fp32 ({gain.low:.2f} to {gain.high:.2f})"


def stored_engines(run: Path, store: Path) -> dict[str, Path]:
    """Folders of a run's engines, by name."""
    results = json.loads((run / RUN_FILE).read_text())["results"]
    return {
        name.removeprefix("engine "): store / row["stage"] / row["key"]
        for name, row in results.items()
        if row["stage"] == "build"
    }


def resnet50(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Path]]:
    """Prune and time the shape of ResNet-50; nothing is trained. Returns figures, and the engines' folders."""
    base = options.out / "resnet50"
    dense = data.save_dense(networks.build("resnet50"), base / "dense")
    engines = {"dense-fp32": build_engine("resnet50", dense), "dense-int8": build_engine("resnet50", dense, int8=True)}
    step = load_profile("cpu").pruning.channel_step
    macs = {"dense": ours.count("resnet50", dense)}
    for arm, settings in RESNET50.items():
        folder = base / f"{arm.replace(' ', '-')}-{digest_file(dense / WEIGHTS_FILE)[:8]}-{step}"
        request = ours.Request(
            network="resnet50", start=dense, dense=dense, out=folder, settings=settings, channel_step=step
        )
        if not (folder / WEIGHTS_FILE).exists():
            ours.prune(request)
        macs[arm] = ours.count("resnet50", folder)
        engines[f"{arm}, FP32"] = build_engine("resnet50", folder)
        engines[f"{arm}, INT8"] = build_engine("resnet50", folder, int8=True)
    return {"macs": macs, "latency": side_by_side(engines, "dense-fp32", 3 * options.duration)}, engines


def resnet50_lines(found: dict[str, Any]) -> list[str]:
    """Latency of every engine, against dense FP32 and beside dense INT8."""
    lines = ["ResNet-50 at 224x224, random weights"]
    int8 = found["latency"]["dense-int8"]["gain"]["value"]
    for name, row in found["latency"].items():
        p50, gain = row["p50_ms"]["value"], Interval(**row["gain"])
        beside = "" if name in ("dense-fp32", "again") else f", {gain.value / int8:.2f} times as fast as dense-int8"
        lines.append(f"  {name:28} p50 {p50:9.3f} ms  {_times(gain)}{beside}")
    return lines + [f"  MACs, {name}: {count:,}" for name, count in found["macs"].items()]


def layers_of(engines: dict[str, Path], names: list[str], queries: int) -> dict[str, LayerTimes]:
    """Times by layer of these engines, one after the other."""
    host = detect_host()
    with measuring_alone(lambda: print("another measurement has the machine ...", flush=True)), pinned(1):
        return {name: measure_layers(*read_engine(engines[name]), host, queries) for name in names}


def _print_layers(layers: dict[str, LayerTimes]) -> dict[str, Any]:
    for name, times in layers.items():
        print(f"\n{name}, layer by layer (the {_LONGEST} longest):")
        print("\n".join(f"  {line}" for line in layer_lines(times, _LONGEST)), flush=True)
    return {name: times.as_dict() for name, times in layers.items()}


def main() -> None:
    """Run what is asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="CIFAR-10 in class folders, or an archive of them")
    parser.add_argument("--weights", type=Path, help="safetensors of ResNet-20")
    parser.add_argument("--speedups", default="4,6", help="of the shipped engine over dense FP32 (4,6)")
    parser.add_argument("--epochs", type=int, default=30, help="of recovery (30)")
    parser.add_argument("--duration", type=float, default=20.0, metavar="SECONDS", help="of each measurement (20)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="more of the recipe's keys")
    parser.add_argument("--only", choices=("resnet20", "resnet50"))
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench-cpu")
    parser.add_argument("--store", type=Path, default=ROOT / ".espalier" / "store")
    options = parser.parse_args()
    if options.only == "resnet20" and not (options.data and options.weights):
        parser.error("resnet20 needs --data and --weights")
    content: dict[str, Any] = {"load_average": os.getloadavg()[0], "host": detect_host().as_dict()}
    if options.data and options.weights and options.only != "resnet50":
        whole_ms = dense_ms(options)
        for speedup in map(float, options.speedups.split(",")):
            out = options.out / f"resnet20-{speedup:g}x"
            print(f"\nResNet-20 at {speedup:g} times the speed of {whole_ms:.4f} ms", flush=True)
            report = resnet20(options, whole_ms / speedup, out)
            if report is None:
                continue
            engines = stored_engines(out, options.store)
            layers = layers_of(engines, ["dense-fp32", "dense-int8", report["shipped"]], 400)
            content[f"resnet20 at {speedup:g}x"] = {"report": report, "layers": _print_layers(layers)}
    if options.only != "resnet20":
        found, engines = resnet50(options)
        print("\n".join(resnet50_lines(found)), flush=True)
        layers = layers_of(engines, ["dense-int8", f"{list(RESNET50)[-1]}, INT8"], 40)
        content["resnet50"] = found | {"layers": _print_layers(layers)}
    write_json(options.out / "cpu.json", content)
    print(f"\nload average before: {content['load_average']:.1f}; all of it in {options.out / 'cpu.json'}")


if __name__ == "__main__":
    main()
