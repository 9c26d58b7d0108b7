"""The shape of ResNet-50 at 224x224, random weights: time at half the MACs, and at half the channels in INT8."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from devices.files import digest_file
from pipeline.model import WEIGHTS_FILE
from tests.benchmarks.pruning import data, jobs, networks, ours
from tests.benchmarks.pruning.measure import build_engine, side_by_side
from tests.benchmarks.pruning.plan import PEERS, Plan
from tests.benchmarks.pruning.results import Results

NAME = "resnet50"
TARGET_MACS, KEEP_RATIO = 0.5, 0.5
HALF_MACS, HALF_CHANNELS = "ours, half the MACs", "ours, half the channels"
INT8 = ", INT8"
# A query takes a tenth of a second: fewer would leave an engine with too few rounds.
_TIMES_LONGER = 3


def run(plan: Plan, results: Results) -> None:
    """Prune and measure; nothing is trained."""
    base = plan.out / "resnet50"
    dense = data.save_dense(networks.build(NAME), base / "dense")
    folders = {"dense": dense}
    for arm, tuned in PEERS.items():
        folders[arm] = base / arm.replace(" ", "-")
        jobs.peer_prune(plan, results, f"resnet50/pruned/{arm}", NAME, dense, folders[arm], TARGET_MACS, tuned)
    targets: dict[str, dict[str, Any]] = {
        HALF_MACS: {"target_macs": TARGET_MACS},
        HALF_CHANNELS: {"keep_ratio": KEEP_RATIO},
    }
    for arm, target in targets.items():
        folders[arm] = base / arm.replace(", ", " ").replace(" ", "-")
        ours.once(results, f"resnet50/pruned/{arm}", plan.ours(NAME, dense, folders[arm], **target))
    settings = {
        "networks": {arm: digest_file(folder / WEIGHTS_FILE) for arm, folder in folders.items()},
        "duration_s": _TIMES_LONGER * plan.duration_s,
    }
    results.once("resnet50/latency", settings, lambda: _measure(folders, _TIMES_LONGER * plan.duration_s))
    results.once("resnet50/macs", settings, lambda: {arm: ours.count(NAME, place) for arm, place in folders.items()})


def _measure(folders: dict[str, Path], duration_s: float) -> dict[str, Any]:
    engines = {arm: build_engine(NAME, folder) for arm, folder in folders.items()}
    for arm in ("dense", HALF_CHANNELS):
        engines[arm + INT8] = build_engine(NAME, folders[arm], int8=True)
    for folder in folders.values():
        # 100 MB each, and built again in seconds.
        for name in ("exported.onnx", "simplified.onnx", "int8.onnx"):
            (folder / name).unlink(missing_ok=True)
    found = side_by_side(engines, "dense", duration_s)
    for folder in folders.values():
        for engine in folder.glob("engine-*"):
            shutil.rmtree(engine)
    return found
