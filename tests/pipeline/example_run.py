"""Folders of runs that were never run, whole in every file, for pages over several of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from devices.bundle import write_manifest
from devices.files import write_json
from devices.robustness import INDEX_FILE, SetInfo, sets_index
from pipeline.report.page import render_page
from tests.pipeline import example_parts
from tests.pipeline.example_report import example_report
from tests.pipeline.search.test_study import example

IMAGES = 200
# Of 100 images asked about; more on the engine that ships than on its FP32 twin, which is to hide.
_WITHSTAND = {"dense-fp32": 41, "dense-int8": 40, "compressed-fp32": 38, "compressed-int8": 62}


def grown_report(**changes: Any) -> dict[str, Any]:
    """An example with everything that a report may have."""
    layer = {"op": "Conv", "precision": "int8", "moved_bytes": 50_000, "mostly": "launch"}
    layers = [
        layer | {"name": f"conv{index}", "macs": 10_000 * 20**index, "latency_ms": 0.01 * (index + 1)}
        for index in range(3)
    ]
    harm = {"operation": "Conv", "sqnr_db": 31.5, "score": 0.97, "cost": 1.0}
    sensitivity = {
        "network": "compressed",
        "kept": ["conv2"],
        "harms": [harm | {"layer": f"conv{index}", "noise": 10.0 ** (index - 5)} for index in range(3)],
        "sensitivity": "alone",
        "judged_on": 256,
    }
    stages = [
        {"name": name, "stage": stage, "seconds": 1.0, "digest": digest * 64, "needs": needs}
        for name, stage, digest, needs in (
            ("dense", "train", "a", []),
            ("simplified dense", "simplify", "b", ["dense"]),
            ("engine compressed-int8", "build", "c", ["simplified dense"]),
            ("engine dense-fp32", "build", "d", ["simplified dense"]),
            ("measurements", "measure", "e", ["engine dense-fp32", "engine compressed-int8"]),
        )
    ]
    costs = {"layers": layers, "roofs": {"int8": 10.0}, "bandwidth_gb_s": 100.0, "why": None}
    report = example_report() | {"layer_costs": costs, "sensitivity": [sensitivity], "stages": stages}
    report["search"] = example(chosen="trial-3")
    example_parts.add_queries(report, _WITHSTAND)
    example_parts.add_corruptions(report)
    example_parts.add_threats(report)
    example_parts.add_training(report)
    example_parts.add_device(report)
    return report | changes


def write_run(folder: Path, report: dict[str, Any], wrong: int = 5, images_seed: int = 0, attack_seed: int = 0) -> None:
    """A run folder with this report, whose judged engine gets the first `wrong` images wrong, attacked twice as many.

    Other seeds are other images.
    """
    evidence = folder / "evidence"
    (evidence / "sets").mkdir(parents=True)
    (evidence / "results").mkdir()
    clean = np.random.default_rng(images_seed).random((IMAGES, 1, 2, 2), dtype=np.float32)
    attacked = np.random.default_rng(attack_seed + 100).random(clean.shape, dtype=np.float32)
    for name, array in (("clean", clean), ("pgd_dense", attacked), ("labels", np.zeros(IMAGES, np.int64))):
        np.save(evidence / "sets" / f"{name}.npy", array)
    infos = [
        SetInfo(name="clean", kind="clean", method="clean"),
        SetInfo(name="pgd_dense", kind="adversarial", method="pgd", surrogate="dense", epsilon=0.1),
    ]
    write_json(evidence / "sets" / INDEX_FILE, sets_index(infos))
    right = {"clean": "0" * wrong + "1" * (IMAGES - wrong), "pgd_dense": "0" * 2 * wrong + "1" * (IMAGES - 2 * wrong)}
    kept = "correct" if report.get("task", "classification") == "classification" else "scores"
    write_json(evidence / "results" / "replay.json", {"query_plan": None, kept: {report["shipped"]: right}})
    for place in (folder, evidence):
        (place / "report.json").write_text(json.dumps(report), encoding="utf-8")
    (folder / "report.html").write_bytes(render_page(report).encode("utf-8", "backslashreplace"))
    write_manifest(evidence, "evidence", {})
    (folder / "deploy").mkdir()
    (folder / "deploy" / "labels.json").write_text("[]")
    write_manifest(folder / "deploy", "deploy", {})
    write_json(folder / "run.json", {"format": "espalier-run/1"})
