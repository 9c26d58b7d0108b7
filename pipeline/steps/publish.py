"""Steps that judge and publish: gate, deploy bundle, report, evidence bundle."""

from __future__ import annotations

from pathlib import Path

from devices.engine_files import read_engine
from devices.files import write_atomic, write_json
from devices.preprocess import Preprocess
from devices.robustness import INDEX_FILE
from devices.stage import Metrics
from exporters.package import assemble_deploy, assemble_evidence
from pipeline.gate import judge
from pipeline.recipe import section_of
from pipeline.recipe.paths import portable_recipe
from pipeline.report.data import assemble_report
from pipeline.report.page import render_page
from pipeline.steps.convert import ONNX_FILE
from pipeline.store import RESULT_FILE, Stored
from pipeline.tasks.select import task_of
from pipeline.versions import library_versions
from pipeline.work import StepInputs

VERDICT_FILE = "verdict.json"
REPORT_JSON = "report.json"
REPORT_HTML = "report.html"


def gate(inputs: StepInputs) -> Metrics:
    """Judge the shipped engine against the recipe's budgets."""
    work = inputs.work
    verdict = judge(
        work.recipe.gate, inputs.results["measurements"].metrics, inputs.results["replays"].metrics, work.shipped
    )
    content = verdict.as_dict()
    write_json(inputs.folder / VERDICT_FILE, content)
    return content


def deploy(inputs: StepInputs) -> Metrics:
    """The bundle that ships. Only reached when the gate passed."""
    work = inputs.work
    engine = inputs.path(f"engine {work.shipped}")
    _, info = read_engine(engine)
    channels, height, width = info.input_shape
    assemble_deploy(
        inputs.folder,
        engine,
        inputs.path(_onnx_node(inputs)) / ONNX_FILE,
        Preprocess(channels=channels, height=height, width=width),
        work.dataset.class_names,
        _manifest(inputs),
    )
    return {"size_bytes": sum(path.stat().st_size for path in inputs.folder.rglob("*") if path.is_file())}


def report(inputs: StepInputs) -> Metrics:
    """`report.json` and the page made of it."""
    content = assemble_report(inputs)
    write_json(inputs.folder / REPORT_JSON, content)
    page = render_page(content)
    write_atomic(inputs.folder / REPORT_HTML, page.encode())
    return {"page_bytes": len(page.encode())}


def evidence(inputs: StepInputs) -> Metrics:
    """The bundle that proves it: evaluation sets, results, report."""
    files: dict[str, Path] = {}
    for node, prefix in (
        ("sets", "sets/"),
        ("measurements", "results/"),
        ("replays", "results/"),
        ("verdict", "results/"),
    ):
        for path in sorted(inputs.path(node).iterdir()):
            if path.name != RESULT_FILE:
                files[prefix + path.name] = path
    for name in (REPORT_HTML, REPORT_JSON):
        files[name] = inputs.path("report") / name
    assert f"sets/{INDEX_FILE}" in files
    assemble_evidence(inputs.folder, files, _manifest(inputs))
    return {"files": len(files)}


def _onnx_node(inputs: StepInputs) -> str:
    form, precision = inputs.work.shipped.split("-")
    return f"quantized {form}" if precision == "int8" else f"simplified {form}"


def _manifest(inputs: StepInputs) -> dict[str, object]:
    work = inputs.work
    verdict = inputs.results["verdict"].metrics
    shipped = inputs.results["measurements"].metrics["engines"][work.shipped]
    replays = inputs.results["replays"].metrics["engines"][work.shipped]
    return {
        "name": work.recipe.name,
        "device": work.profile.name,
        "engine": work.shipped,
        "task": task_of(work.recipe.task).scoring.as_dict(),
        "recipe": portable_recipe(section_of(work.recipe)),
        "versions": library_versions(),
        "host": work.host.as_dict(),
        "verdict": verdict,
        "metrics": {
            "latency": shipped["latency"],
            "size_bytes": shipped["size_bytes"],
            "clean_accuracy": replays["clean"],
            "robust_accuracy": replays["robust"],
        },
        "stages": {name: _link(stored) for name, stored in sorted(inputs.results.items())},
    }


def _link(stored: Stored) -> dict[str, object]:
    return {"digest": stored.digest, "key": stored.folder.name, "stage": stored.folder.parent.name}
