"""Readers of `tests.fuzz` for what commands read of a run, of its evidence, and of a stage's folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from devices.agent_job import FORMAT as JOB_FORMAT
from devices.agent_job import JOB_FILE, read_job
from devices.bundle import MANIFEST, Bundle, open_bundle, write_manifest
from devices.calibrate_steps import FORMAT as PROBES_FORMAT
from devices.calibrate_steps import PROBES_FILE, read_probes
from devices.errors import EspalierError
from devices.trust.store import UNSIGNED
from devices.tune import FORMAT as TUNED_FORMAT
from devices.tune import TUNED_FILE, read_tuned
from pipeline.attest.explain import explain
from pipeline.attest.read import read_steps
from pipeline.attest.repeat import compare_steps, recorded_recipe
from pipeline.pages.index import index_page
from pipeline.pages.pairs import clean_pair, read_evidence, robust_pair
from pipeline.recipe import read_recipe, section_of
from pipeline.recipe.paths import portable_recipe
from pipeline.release.evidence import run_figures
from pipeline.release.regression import RegressionConfig, regressions
from pipeline.report.layer_times_view import read_layer_times
from pipeline.report.page import render_page
from pipeline.run_folder import read_run, whole_report
from pipeline.search.study import STUDY_FILE, read_study
from pipeline.summary import summary_lines
from pipeline.threats.edge.on_bundle import budget_of
from pipeline.threats.report import THREATS_FILE, read_threats
from tests.fuzz import ROOT, Reader
from tests.pipeline.example_parts import layer_times
from tests.pipeline.example_run import grown_report, write_run
from tests.pipeline.release.evidence_parts import Contents, write_evidence
from tests.pipeline.search.test_study import example

_DRILL = ROOT / "tests" / "drill_recipe" / "drill.toml"
_IN_EVIDENCE = (
    "report.json",
    "results/replay.json",
    "sets/sets.json",
    "attestations/dense.json",
    "attestations/replays.json",
)
_JOB = {
    "format": JOB_FORMAT,
    "stage": "measure",
    "config": {"duration_s": 1.0, "seed": 0},
    "inputs": {"engine dense-fp32": "in/engine dense-fp32"},
    "device": None,
    "force": False,
    "kept": "kept",
}
_PROBES = {
    "format": PROBES_FORMAT,
    "probes": [{"name": "c8", "kind": "convolution", "channels": 8, "layers": 2, "macs": 1000}],
}
_TUNED = {
    "format": TUNED_FORMAT,
    "provider": "CPUExecutionProvider",
    "threads": 1,
    "session": {"allow_fallback": ["Conv"], "graph_optimization": "all", "spinning": False},
}


def run_readers(base: Path) -> list[Reader]:
    """All of them; what they need beside the file is made in the folder."""
    return [*_of_evidence(base), *_of_runs(base), *_of_stages()]


def _of_evidence(base: Path) -> list[Reader]:
    proven, threats = write_evidence(base / "proven", _as_drilled), base / "threats"
    threats.mkdir()
    told = json.dumps({"format": "espalier-threats/1", "threats": grown_report()["threats"]}).encode()

    def of_manifest(content: bytes, folder: Path) -> None:
        shutil.copytree(proven, folder / "evidence")
        (folder / "evidence" / MANIFEST).write_bytes(content)
        _judged(open_bundle(folder / "evidence", "evidence", UNSIGNED))

    def of_threats(content: bytes, folder: Path) -> None:
        (folder / THREATS_FILE).write_bytes(content)
        write_manifest(folder, "evidence", {})
        read_threats(open_bundle(folder, "evidence", UNSIGNED))

    def of_file(name: str) -> Reader:
        def read(content: bytes, folder: Path) -> None:
            evidence = folder / "evidence"
            shutil.copytree(proven, evidence)
            (evidence / name).write_bytes(content)
            _sealed(evidence)
            if name.startswith("attestations/"):
                _judged(open_bundle(evidence, "evidence", UNSIGNED))
            else:
                # That no step made this file is known before anything else is.
                _figures(open_bundle(evidence, "evidence", UNSIGNED))

        return Reader(f"evidence: {name}", ((proven / name).read_bytes(),), read, "json")

    return [
        Reader("evidence: manifest", ((proven / MANIFEST).read_bytes(),), of_manifest, "json"),
        Reader("threats", (told,), of_threats, "json"),
        *map(of_file, _IN_EVIDENCE),
    ]


def _of_runs(base: Path) -> list[Reader]:
    run, report = base / "run", grown_report()
    write_run(run, report)
    (run / "report.html").unlink()
    whole = read_evidence(run, report)

    def of_report(content: bytes, folder: Path) -> None:
        """As `espalier report` does, and `espalier index`."""
        again = folder / "runs" / "again"
        shutil.copytree(run, again)
        for place in (again, again / "evidence"):
            (place / "report.json").write_bytes(content)
        write_manifest(again / "evidence", "evidence", {})
        index_page(folder / "runs")
        with whole_report(again):
            read = read_run(again)
            render_page(read), summary_lines(read, again)

    def of_layer_times(content: bytes, folder: Path) -> None:
        (folder / "layers.json").write_bytes(content)
        with whole_report(run):
            times = read_layer_times(folder / "layers.json", report)
            render_page(report | {"layer_times": times})

    def of_answers(content: bytes, folder: Path) -> None:
        """As `espalier compare` does."""
        shutil.copytree(run, folder / "run")
        (folder / "run" / "evidence" / "results" / "replay.json").write_bytes(content)
        write_manifest(folder / "run" / "evidence", "evidence", {})
        with whole_report(folder / "run"):
            found = read_evidence(folder / "run", report)
            clean_pair(whole, found), robust_pair(whole, found)

    answers = (run / "evidence" / "results" / "replay.json").read_bytes()
    return [
        Reader("run: report.json", ((run / "report.json").read_bytes(),), of_report, "json"),
        Reader("run: layer times", (json.dumps(layer_times(report)).encode(),), of_layer_times, "json"),
        Reader("run: answers", (answers,), of_answers, "json"),
    ]


def _of_stages() -> list[Reader]:
    """Files that a stage leaves for another, or a host for a board."""

    def of(name: str, valid: dict[str, Any], read: Callable[[Path], object]) -> Reader:
        def written(content: bytes, folder: Path) -> None:
            (folder / name).write_bytes(content)
            read(folder)

        return Reader(name, (json.dumps(valid).encode(),), written, "json")

    return [
        of(JOB_FILE, _JOB, read_job),
        of(PROBES_FILE, _PROBES, read_probes),
        of(TUNED_FILE, _TUNED, read_tuned),
        of(STUDY_FILE, example(), read_study),
    ]


def _as_drilled(content: Contents) -> None:
    """With a whole recipe, which `espalier reproduce` reads, and its budgets."""
    recipe = portable_recipe(section_of(read_recipe(_DRILL)))
    content["manifest"]["recipe"] = recipe
    budgets = content["manifest"]["verdict"]["budgets"]
    for budget, name in zip(budgets, ("max_accuracy_drop", "max_size_bytes"), strict=True):
        budget.update(name=name, limit=float(recipe["gate"][name]))


def _sealed(evidence: Path) -> None:
    """Write the manifest for the files that are there now."""
    manifest = json.loads((evidence / MANIFEST).read_bytes())
    write_manifest(evidence, "evidence", {key: manifest[key] for key in manifest if key not in ("files", "format")})


def _judged(evidence: Bundle) -> None:
    """All that commands make of it."""
    calls = (_repeated, lambda found: explain(found, None), budget_of, _figures)
    refused: list[EspalierError] = []
    for call in calls:
        try:
            call(evidence)
        except EspalierError as error:
            refused.append(error)
    if refused:
        # Each message is looked at, and one that cannot be printed is a fault.
        raise next((error for error in refused if not str(error).isprintable()), refused[0])


def _repeated(evidence: Bundle) -> None:
    """As `espalier reproduce` begins and ends."""
    steps = read_steps(evidence)
    compare_steps(steps, steps)
    recorded_recipe(evidence, steps, _DRILL.parent, ())


def _figures(evidence: Bundle) -> None:
    found = run_figures(evidence)
    regressions(found, found, RegressionConfig())
