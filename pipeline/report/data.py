"""Everything that the report says, as JSON values, gathered from the results of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from devices.errors import BundleError, StorageError
from devices.files import read_json
from devices.robustness import INDEX_FILE, EvaluationSets, read_sets
from devices.scoring import Scoring
from pipeline.edge_nodes import is_edge
from pipeline.engine_plan import engine_title, in_order
from pipeline.graph_nodes import ENGINE_PREFIX
from pipeline.recipe import section_of
from pipeline.recipe.paths import portable_recipe
from pipeline.report.images import image_pairs
from pipeline.report.layer_data import layer_costs_of, sensitivity_of
from pipeline.results import DECISION, GRAPH_REPLAYS, REPLAYS, figures_of, is_measured, replays_of, shipped_of
from pipeline.scan_nodes import is_scan
from pipeline.search.study import STUDY_FILE
from pipeline.store import Stored
from pipeline.threats.report import threat_report
from pipeline.twin.node import TWIN_STAGE
from pipeline.versions import library_versions
from pipeline.work import StepInputs, Work

FORMAT = "espalier-report/1"
_BINS = 60


def assemble_report(inputs: StepInputs) -> dict[str, Any]:
    """The content of `report.json`."""
    sets = _sets(inputs)
    return {
        "format": FORMAT,
        **_subject(inputs, sets),
        **_measurements(inputs),
        **_robustness(inputs, sets),
        **_compression(inputs),
        **_record(inputs),
    }


def _subject(inputs: StepInputs, sets: EvaluationSets) -> dict[str, Any]:
    """What was made for which device, and what became of it."""
    work, results = inputs.work, inputs.results
    return {
        "name": work.recipe.name,
        "device": {"name": work.profile.name, "title": work.profile.title},
        "task": sets.scoring.kind,
        "baseline": work.baseline,
        "shipped": shipped_of(results),
        "decision": results[DECISION].metrics,
        "verdict": results["verdict"].metrics,
        "notes": {name: stored.metrics["lines"] for name, stored in results.items() if "lines" in stored.metrics}
        | ({"plan": list(work.plan_notes)} if work.plan_notes else {}),
    }


def _measurements(inputs: StepInputs) -> dict[str, Any]:
    """Every engine: size, time and answers, and the device meanwhile."""
    results = inputs.results
    measured, attacked = figures_of(results), replays_of(results)
    engines = in_order(measured["engines"])
    return {
        "measured": is_measured(results),
        "engines": [_engine(name, results, measured["engines"][name], attacked["engines"][name]) for name in engines],
        "speedups": measured["speedups"],
        "same_engine_twice": measured.get("same_engine_twice"),
        "board": _board(inputs.work, measured),
        "telemetry": measured.get("telemetry"),
        "conditions": {key: measured[key] for key in _CONDITIONS} if is_measured(results) else None,
        "latency_histogram": _histogram(inputs, engines) if is_measured(results) else None,
    }


def _robustness(inputs: StepInputs, sets: EvaluationSets) -> dict[str, Any]:
    """What it was tried with, and whether that can be believed."""
    work, results = inputs.work, inputs.results
    attacked, crafted = replays_of(results), results["sets"].metrics
    replays = inputs.path(REPLAYS if is_measured(results) else GRAPH_REPLAYS)
    replayed = read_json(replays / "replay.json", BundleError)
    outcomes = replayed["correct" if sets.scoring.kind == "classification" else "scores"]
    return {
        "scans": _findings(results),
        "threats": _threats(inputs, sets),
        "samples": attacked["samples"],
        "query_plan": attacked.get("query_plan"),
        "twin": next((found.metrics for found in results.values() if found.folder.parent.name == TWIN_STAGE), None),
        "epsilon": work.recipe.robustness.epsilon,
        "surrogates": _surrogates(sets, crafted),
        "sanity": _sanity(sets, crafted),
        "images": image_pairs(sets, outcomes, shipped_of(results), work.dataset.class_names),
    }


def _compression(inputs: StepInputs) -> dict[str, Any]:
    """What was done to the network, layer by layer and step by step."""
    results = inputs.results
    pruned = results["pruned"].metrics if "pruned" in results else None
    return {
        "layer_costs": layer_costs_of(inputs),
        "sensitivity": sensitivity_of(inputs),
        "layers": pruned["layers"] if pruned else [],
        "left_out": pruned["left_out"] if pruned else [],
        "pruning": {key: pruned.get(key) for key in _PRUNING_KEYS} if pruned else None,
        "steps": _steps(results),
        "training": _training(results),
        "search": _search(inputs),
        "parity": [
            {"step": name} | stored.metrics["parity"] for name, stored in results.items() if "parity" in stored.metrics
        ],
    }


def _record(inputs: StepInputs) -> dict[str, Any]:
    """What it takes to make it again."""
    work = inputs.work
    return {
        "stages": [
            {"name": name, "stage": stored.folder.parent.name, "seconds": stored.seconds, "digest": stored.digest}
            | {"needs": inputs.options["needs"][name]}
            for name, stored in inputs.results.items()
        ],
        "environment": {"host": work.device_host.as_dict(), "versions": library_versions()},
        "commands": _commands(work),
        "recipe": portable_recipe(section_of(work.recipe)),
    }


_CONDITIONS = ("threads", "pinned_cpus", "governor", "load_average_before", "openings")
_PRUNING_KEYS = (
    "macs_before",
    "macs_after",
    "parameters_before",
    "parameters_after",
    "channel_step",
    "device_step",
    "granularity",
    "criterion",
    "scope",
    "score_fallback",
    "zeros_share",
    "blocks",
    "skipped",
    "unit",
    "limit",
    "reached",
    "latency_source",
)


def _board(work: Work, measured: Mapping[str, Any]) -> dict[str, Any] | None:
    """Where it was measured: by the name of this run, because one board may have several."""
    if work.board is None:
        return None
    # Those of now too: figures that were stored may be of a run here, which knows no board.
    notes = dict.fromkeys((*work.board.notes, *measured.get("board", {}).get("notes", [])))
    return {"name": work.board.name, "notes": list(notes), "other_device": work.board.other_device}


def _threats(inputs: StepInputs, sets: EvaluationSets) -> list[dict[str, Any]]:
    results = inputs.results
    return threat_report(
        replays_of(results),
        inputs.work.baseline,
        [asdict(info) for info in sets.infos if info.kind == "adversarial"],
        [stored.metrics for name, stored in results.items() if is_scan(name)],
        [stored.metrics for name, stored in results.items() if is_edge(name)],
    )


def _findings(results: Mapping[str, Stored]) -> list[dict[str, Any]]:
    """Of every scan for backdoors."""
    return [finding for name, stored in results.items() if is_scan(name) for finding in stored.metrics["findings"]]


def _steps(results: Mapping[str, Stored]) -> list[dict[str, Any]]:
    """Each step of the schedule: what was left, and the score before and after its recovery."""
    rows = []
    for name, stored in results.items():
        if stored.folder.parent.name != "prune":
            continue
        recovered = results.get(name.replace("pruned", "recovered", 1))
        found = stored.metrics
        rows.append(
            {
                "name": name,
                "macs": found["macs_after"],
                "parameters": found["parameters_after"],
                "score_as_cut": found["score_before_recalibration"],
                "score_before_recovery": found["score_before_recovery"],
                "score": recovered.metrics["score"] if recovered else None,
                "epochs": recovered.metrics["epochs_run"] if recovered else 0,
            }
        )
    return rows


def _training(results: Mapping[str, Stored]) -> list[dict[str, Any]]:
    """Every fit that watched a validation part: accuracy by epoch, attacked where there is a clean one beside it."""
    return [
        {
            "name": name,
            "accuracy": stored.metrics["validation_accuracy_by_epoch"],
            "clean": stored.metrics["clean_validation_accuracy_by_epoch"],
            "best_epoch": stored.metrics["best_epoch"],
        }
        for name, stored in results.items()
        if stored.metrics.get("validation_accuracy_by_epoch")
    ]


def _search(inputs: StepInputs) -> dict[str, Any] | None:
    """The study, with the trial that was chosen."""
    if "search" not in inputs.results:
        return None
    study: dict[str, Any] = read_json(inputs.path("search") / STUDY_FILE, StorageError)
    return study | {"chosen": inputs.results["pruned"].metrics["chosen"]}


def _engine(
    name: str, results: Mapping[str, Stored], measured: Mapping[str, Any], attacked: Mapping[str, Any]
) -> dict[str, Any]:
    form = name.split("-")[0]
    # A file that is taken in as it is has no torch form.
    network = results["dense" if "dense" in results else "imported dense"].metrics
    macs, parameters = network["macs"], network["parameters"]
    if form == "compressed":
        pruned = results["pruned"].metrics
        macs, parameters = pruned["macs_after"], pruned["parameters_after"]
    build = results[f"{ENGINE_PREFIX}{name}"].metrics["build"]
    told = {key: build[key] for key in ("build_s", "products") if key in build}
    title = engine_title(name)
    return {"name": name, "title": title, "macs": macs, "parameters": parameters, **told, **measured, **attacked}


def _sets(inputs: StepInputs) -> EvaluationSets:
    folder = inputs.path("sets")
    index = folder / INDEX_FILE
    return read_sets(read_json(index, BundleError), lambda name: (folder / name).read_bytes(), str(index))


def _surrogates(sets: EvaluationSets, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"set": info.name, "surrogate": info.surrogate, "accuracy": metrics[f"{info.name}_surrogate_accuracy"]}
        for info in sets.infos
        if info.kind == "adversarial"
    ]


def _sanity(sets: EvaluationSets, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Whether attacks on each surrogate can be believed."""
    names = dict.fromkeys(info.surrogate for info in sets.infos if info.surrogate)
    return [{"surrogate": name} | metrics[f"{name}_sanity"] for name in names if f"{name}_sanity" in metrics]


def _histogram(inputs: StepInputs, engines: list[str]) -> dict[str, Any]:
    """Counts of queries over shared, evenly spaced logarithmic edges in ms; what lies beyond is counted apart."""
    samples = {name: np.load(inputs.path("measurements") / f"latency-{name}.npy") / 1e6 for name in engines}
    low = min(float(values.min()) for values in samples.values())
    high = max(float(np.percentile(values, 99.5)) for values in samples.values())
    edges = np.geomspace(low, max(high, low * 1.01), _BINS + 1)
    return {
        "edges_ms": edges.tolist(),
        "engines": {
            name: {
                "counts": np.histogram(values, edges)[0].tolist(),
                "beyond": int(np.count_nonzero(values > edges[-1])),
            }
            for name, values in samples.items()
        },
    }


def _commands(work: Work) -> list[dict[str, str]]:
    name = f"runs/{work.recipe.name}-{work.profile.name}"
    bench = f"espalier-agent bench {name}/deploy --allow-unsigned"
    commands = [
        {"figure": "everything, from the start", "command": work.command},
        {"figure": "latency, load time and memory of the shipped engine", "command": bench},
    ]
    if work.recipe.task.kind == "custom":
        # Its score is code of the host's, which the agent does not have.
        return commands
    noun = Scoring(kind=work.recipe.task.kind).noun
    attack = f"espalier-agent attack {name}/deploy {name}/evidence --allow-unsigned"
    return [*commands, {"figure": f"{noun} and robust {noun} of the shipped engine", "command": attack}]
