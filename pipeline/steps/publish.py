"""Steps that judge and publish: gate, deploy bundle, report, evidence bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from devices.engine_files import read_engine
from devices.engines.base import EngineInfo
from devices.files import digest_value, write_atomic, write_json
from devices.preprocess import Preprocess
from devices.robustness import INDEX_FILE
from devices.stage import Metrics
from exporters.package import assemble_deploy, assemble_evidence
from exporters.sbom import Figure, SbomConfig
from pipeline.attest.statement import write_statements
from pipeline.edge_nodes import is_edge
from pipeline.engine_plan import graph_of
from pipeline.gate import judge
from pipeline.graph_nodes import ENGINE_PREFIX
from pipeline.recipe import section_of
from pipeline.recipe.paths import portable_recipe
from pipeline.report.data import assemble_report
from pipeline.report.page import render_page
from pipeline.results import (
    DECISION,
    GRAPH_REPLAYS,
    MEASUREMENTS,
    PREDICTIONS,
    REBUILDS,
    REPLAYS,
    STARTS,
    figures_of,
    is_measured,
    replays_of,
    shipped_of,
)
from pipeline.scan_nodes import is_scan
from pipeline.steps.convert import ONNX_FILE
from pipeline.store import RESULT_FILE, Stored
from pipeline.tasks.select import task_of
from pipeline.threats.report import FORMAT as THREATS_FORMAT
from pipeline.threats.report import THREATS_FILE
from pipeline.versions import LIBRARIES, library_versions
from pipeline.work import StepInputs

VERDICT_FILE = "verdict.json"
REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
_EVIDENCE = (MEASUREMENTS, PREDICTIONS, REPLAYS, GRAPH_REPLAYS, DECISION, REBUILDS, STARTS, "verdict")
"""Results whose files prove something."""


def gate(inputs: StepInputs) -> Metrics:
    """Judge the shipped engine against the recipe's budgets."""
    work = inputs.work
    figures, replays = figures_of(inputs.results), replays_of(inputs.results)
    scans = [stored.metrics for name, stored in inputs.results.items() if is_scan(name)]
    threats = [stored.metrics for name, stored in inputs.results.items() if is_edge(name)]
    verdict = judge(work.recipe.gate, figures, replays, shipped_of(inputs.results), work.baseline, scans, threats)
    content = verdict.as_dict()
    write_json(inputs.folder / VERDICT_FILE, content)
    return content


def deploy(inputs: StepInputs) -> Metrics:
    """The bundle that ships. Only reached when the gate passed."""
    work = inputs.work
    shipped = shipped_of(inputs.results)
    engine = inputs.path(f"{ENGINE_PREFIX}{shipped}")
    _, info = read_engine(engine)
    channels, height, width = info.input_shape
    assemble_deploy(
        inputs.folder,
        engine,
        inputs.path(graph_of(shipped, work.engines)) / ONNX_FILE,
        Preprocess(channels=channels, height=height, width=width),
        work.dataset.class_names,
        _sbom(inputs, info),
        _manifest(inputs),
    )
    return {"size_bytes": sum(path.stat().st_size for path in inputs.folder.rglob("*") if path.is_file())}


def report(inputs: StepInputs) -> Metrics:
    """`report.json` and the page made of it."""
    content = assemble_report(inputs)
    write_json(inputs.folder / REPORT_JSON, content)
    write_json(inputs.folder / THREATS_FILE, {"format": THREATS_FORMAT, "threats": content["threats"]})
    page = render_page(content)
    write_atomic(inputs.folder / REPORT_HTML, page.encode())
    return {"page_bytes": len(page.encode())}


def evidence(inputs: StepInputs) -> Metrics:
    """The bundle that proves it: evaluation sets, results, report."""
    files: dict[str, Path] = {}
    chosen = [name for name in inputs.results if name in _EVIDENCE or _has_folder(name)]
    for node in ("sets", *chosen):
        prefix = (
            "sets/" if node == "sets" else f"results/{node.replace(' ', '-')}/" if _has_folder(node) else "results/"
        )
        for path in sorted(inputs.path(node).iterdir()):
            if path.name != RESULT_FILE:
                files[prefix + path.name] = path
    for name in (REPORT_HTML, REPORT_JSON, THREATS_FILE):
        files[name] = inputs.path("report") / name
    assert f"sets/{INDEX_FILE}" in files
    write_statements(inputs)
    assemble_evidence(inputs.folder, files, _manifest(inputs))
    return {"files": len(files)}


def _has_folder(node: str) -> bool:
    """Whether there may be several results of this kind, whose files are of the same names."""
    return node.startswith("mixed ") or is_edge(node) or is_scan(node)


def _manifest(inputs: StepInputs) -> dict[str, object]:
    work = inputs.work
    verdict = inputs.results["verdict"].metrics
    name = shipped_of(inputs.results)
    shipped, replays = figures_of(inputs.results)["engines"][name], replays_of(inputs.results)["engines"][name]
    return {
        "name": work.recipe.name,
        "device": work.profile.name,
        "engine": name,
        "decision": inputs.results[DECISION].metrics,
        "task": task_of(work.recipe.task).scoring.as_dict(),
        "recipe": portable_recipe(section_of(work.recipe)),
        "versions": library_versions(),
        "host": work.device_host.as_dict(),
        "verdict": verdict,
        "metrics": {
            "latency": shipped["latency"],
            "size_bytes": shipped["size_bytes"],
            **_accuracies(inputs, replays),
        },
        "stages": {name: _link(stored) for name, stored in sorted(inputs.results.items())},
    }


def _sbom(inputs: StepInputs, info: EngineInfo) -> SbomConfig:
    """What the bill of materials names beside the files."""
    recipe, manifest = inputs.work.recipe, _manifest(inputs)
    portable = portable_recipe(section_of(recipe))
    metrics = cast("dict[str, Any]", manifest["metrics"])
    figures = [
        Figure(kind=kind, value=found["value"], low=found["low"], high=found["high"])
        for kind, found in metrics.items()
        if isinstance(found, dict) and "value" in found
    ]
    if metrics["latency"] is not None:
        p50 = metrics["latency"]["p50_ms"]
        figures.append(Figure(kind="latency_p50_ms", value=p50["value"], low=p50["low"], high=p50["high"]))
    return SbomConfig(
        name=recipe.name,
        device=inputs.work.profile.name,
        task=recipe.task.kind,
        architecture=portable["model"]["onnx"] or portable["model"]["factory"],
        data=portable["data"]["factory"],
        data_digest=digest_value(inputs.options["data"]),
        input_shape=info.input_shape,
        precision=str(manifest["engine"]).rpartition("-")[2],
        runtime=info.runtime.replace("_", "-"),
        figures=(*figures, Figure(kind="size_bytes", value=metrics["size_bytes"])),
        libraries=library_versions((*LIBRARIES, info.runtime.replace("_", "-"))),
    )


def _accuracies(inputs: StepInputs, replays: Mapping[str, Any]) -> dict[str, object]:
    """Of the engine; where it did not run, of its graph, and named so."""
    suffix = "" if is_measured(inputs.results) else "_of_graph"
    return {f"clean_accuracy{suffix}": replays["clean"], f"robust_accuracy{suffix}": replays["robust"]}


def _link(stored: Stored) -> dict[str, object]:
    return {"digest": stored.digest, "key": stored.folder.name, "stage": stored.folder.parent.name}
