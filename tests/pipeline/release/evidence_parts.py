"""Evidence of a run that was never run, small and whole: what the gate for releases and `--explain` read of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devices.bundle import open_bundle, write_manifest
from devices.errors import BundleError
from devices.files import digest_file, digest_value, write_json
from devices.robustness import INDEX_FILE, SetInfo, sets_index
from devices.trust.store import UNSIGNED
from pipeline.attest.format import (
    ATTESTATIONS,
    BUILD_TYPE,
    FILES_DIGEST,
    HOST_CLASS,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    VALUE_DIGEST,
    file_of,
)
from pipeline.release.evidence import RunFigures, run_figures

ENGINE, BASELINE, TWIN = "compressed-int8", "dense-fp32", "compressed-fp32"
CLEAN, FGSM, PGD, WITHSTOOD = "11110111", "11010111", "10110111", "0111"
"""Right or wrong by sample, of the engine that ships."""
_MODEL = {"args": {"channels": 8}, "factory": "0" * 64}
_ROBUSTNESS = {
    "pgd_steps": 10,
    "pgd_restarts": 2,
    "pgd_step_size": None,
    "budget": "standard",
    "apgd_steps": None,
    "restarts": 1,
    "targets": 3,
    "fab_steps": None,
    "square_queries": 500,
}
Contents = dict[str, Any]
"""Content by name: `manifest`, `report`, `sets`, `replay`."""
Change = Callable[[Contents], None]


def contents() -> Contents:
    """What stands in the evidence when nothing is wrong."""
    infos = [
        SetInfo(name="clean", kind="clean", method="clean"),
        SetInfo(name="fgsm_dense", kind="adversarial", method="fgsm", surrogate="dense", epsilon=0.1),
        SetInfo(name="pgd_dense", kind="adversarial", method="pgd", surrogate="dense", epsilon=0.1, rounded=True),
        SetInfo(name="fog_3", kind="corruption", method="fog", strength=3),
    ]
    rows = {"clean": CLEAN, "fgsm_dense": FGSM, "pgd_dense": PGD, "fog_3": "00000000"}
    plan = {"attacks": ["square"], "epsilon": 0.1, "norm": "linf", "queries": 200, "samples": 4, "seed": 0}
    budgets = [
        _budget("max_accuracy_drop", 2.0, 0.5, -1.0, 1.5, "points"),
        _budget("min_robust_accuracy", 30.0, 50.0, 40.0, 60.0, "%"),
    ]
    return {
        "manifest": {
            "name": "small",
            "device": "cpu",
            "engine": ENGINE,
            "task": {"kind": "classification"},
            "verdict": {"passed": True, "budgets": budgets},
            "decision": {"engine": ENGINE, "reason": "asked"},
            "metrics": {"size_bytes": 4264},
            "recipe": {
                "gate": {"max_accuracy_drop": 2, "min_robust_accuracy": 30, "max_p99_ms": None},
                "robustness": dict(_ROBUSTNESS),
            },
        },
        "report": {
            "format": "espalier-report/1",
            "baseline": BASELINE,
            "measured": True,
            "board": None,
            "speedups": [
                {"engine": TWIN, "than": BASELINE, "value": 3.0, "low": 2.5, "high": 3.5},
                {"engine": ENGINE, "than": TWIN, "value": 1.2, "low": 1.1, "high": 1.3},
                {"engine": ENGINE, "than": BASELINE, "value": 2.0, "low": 1.5, "high": 2.5},
            ],
        },
        "sets": sets_index(infos),
        "replay": {
            "task": "classification",
            "samples": len(CLEAN),
            "query_plan": plan,
            "correct": {ENGINE: rows, BASELINE: rows},
            "withstood_queries": {ENGINE: {"square": WITHSTOOD}, BASELINE: {"square": "1111"}},
        },
    }


def write_evidence(folder: Path, change: Change | None = None) -> Path:
    """The bundle, with what was changed in it; every file is attested."""
    content = contents()
    if change is not None:
        change(content)
    (folder / "sets").mkdir(parents=True)
    np.save(folder / "sets" / "clean.npy", np.zeros((len(CLEAN), 1, 2, 2), np.float32))
    np.save(folder / "sets" / "labels.npy", np.zeros(len(CLEAN), np.int64))
    write_json(folder / "sets" / INDEX_FILE, content["sets"])
    write_json(folder / "report.json", content["report"])
    write_json(folder / "results" / "replay.json", content["replay"])
    _attest(folder, content["manifest"])
    write_manifest(folder, "evidence", content["manifest"])
    return folder


def at(*keys: Any, value: object) -> Change:
    """A change that sets the value at this place."""

    def change(content: Contents) -> None:
        node: Any = content
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value

    return change


def read(folder: Path, change: Change | None = None) -> RunFigures:
    """The figures of evidence that this was changed in."""
    return run_figures(open_bundle(write_evidence(folder / "evidence", change), "evidence", UNSIGNED))


def refusal(folder: Path, change: Change) -> BundleError:
    """What is said of it."""
    with pytest.raises(BundleError) as caught:
        read(folder, change)
    return caught.value


def _budget(name: str, limit: float, value: float, low: float, high: float, unit: str) -> dict[str, Any]:
    figures = {"limit": limit, "value": value, "low": low, "high": high}
    return {"name": name, "text": name.replace("_", " "), "unit": unit, "met": True, **figures}


def _attest(folder: Path, manifest: dict[str, Any]) -> None:
    """A statement for each step of the shortest chain that makes these files."""
    dense = _statement(folder, "dense", [], {"parameters": 1922}, {})
    sets = _statement(folder, "sets", [f"sets/{name}" for name in ("clean.npy", "labels.npy", INDEX_FILE)], {}, dense)
    table: dict[str, Any] = {"engines": {ENGINE: {"robust": 0.5, "sets": [0.5] * 5000}}}
    replays = _statement(folder, "replays", ["results/replay.json"], table, sets)
    decision = _statement(folder, "decision", [], manifest.get("decision", {}), replays)
    verdict = _statement(folder, "verdict", [], manifest.get("verdict", {}), decision)
    _statement(folder, "report", ["report.json"], {"page_bytes": 1}, verdict)
    manifest["stages"] = {name: {"digest": digest} for name, digest in {**dense, **sets, **verdict}.items()}


def _statement(
    folder: Path, name: str, files: list[str], metrics: dict[str, Any], made_of: dict[str, str]
) -> dict[str, str]:
    """Written; returns the digest of its artifact by its name, for what is made of it."""
    digests = {Path(file).name: digest_file(folder / file) for file in files}
    materials = [{"name": f"step {needed}", "digest": {FILES_DIGEST: digest}} for needed, digest in made_of.items()]
    source = {"name": "model", "digest": {VALUE_DIGEST: digest_value(_MODEL)}, "annotations": {"factory": "net.py:net"}}
    parameters = {
        "step": name,
        "stage": name,
        "recipe": "small",
        "device": "cpu",
        "seed": 0,
        "config": {"model": _MODEL},
    }
    definition = {
        "buildType": BUILD_TYPE,
        "externalParameters": parameters,
        "internalParameters": {"code": "0" * 64, "libraries": {"numpy": "1.21.0", "torch": None}},
        "resolvedDependencies": [*materials, *([] if made_of else [source])],
    }
    details = {
        "builder": {"id": f"{HOST_CLASS}x86_64-avx2"},
        "metadata": {"invocationId": "0" * 40},
        "byproducts": [
            {"name": "metrics", "digest": {VALUE_DIGEST: digest_value(metrics)}, "annotations": {"values": metrics}}
        ],
    }
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": path, "digest": {"sha256": digest}} for path, digest in digests.items()],
        "predicateType": PREDICATE_TYPE,
        "predicate": {"buildDefinition": definition, "runDetails": details},
    }
    write_json(folder / ATTESTATIONS / file_of(name), statement)
    return {name: digest_value(digests)}
