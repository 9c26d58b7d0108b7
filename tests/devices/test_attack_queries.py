"""Queries in the attack stage and on the board: on real engines, with their worst case and verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devices.agent import main
from devices.agent_stage import AttackJob, run_stage
from devices.attack import REPLAY_FILE, WITHSTOOD, attack_engines
from devices.bundle import open_bundle
from devices.detect import Host
from devices.errors import BundleError, DataError
from devices.evidence_queries import plan_of
from devices.queries.plan import QueryPlan
from devices.robustness import EvaluationSets
from devices.scoring import Scoring
from devices.stage import no_progress
from devices.statistics import wilson
from devices.trust.store import Trust
from tests.devices.parts import SAMPLES, build_engine, build_onnx, rows_kernel, write_sets
from tests.devices.test_agent_stage import write_job

# Contrast 0.4 over two rows of six: fooled with a change of 0.2 and more, never with less.
BREAKS = QueryPlan(attacks=("square",), queries=300, samples=12, epsilon=0.3)
SPARES = replace(BREAKS, epsilon=0.19)


@pytest.fixture
def engines(tmp_path: Path, engine_folder: Path, host: Host) -> dict[str, Path]:
    """The network, and one whose first class wins by far."""
    kernel = rows_kernel()
    kernel[1:] *= 0.01
    build_engine(tmp_path / "stubborn", build_onnx(tmp_path / "stubborn.onnx", kernel), host)
    return {"dense-fp32": engine_folder, "dense-int8": tmp_path / "stubborn"}


def attacked(
    engines: dict[str, Path], sets: EvaluationSets, host: Host, folder: Path, plan: QueryPlan | None
) -> dict[str, Any]:
    return dict(attack_engines(engines, "dense-fp32", sets, host, folder, no_progress, queries=plan).metrics)


def test_queries_join_the_worst_case(
    tmp_path: Path, engines: dict[str, Path], sets: EvaluationSets, host: Host
) -> None:
    replayed = attacked(engines, sets, host, tmp_path / "a", None)["engines"]["dense-fp32"]
    spared = attacked(engines, sets, host, tmp_path / "b", SPARES)["engines"]["dense-fp32"]
    broken = attacked(engines, sets, host, tmp_path / "c", replace(BREAKS, samples=20))["engines"]["dense-fp32"]
    assert (replayed["queries"], replayed["masking"]) == ([], None)
    assert {key: spared[key] for key in ("clean", "robust", "sets")} == {
        key: replayed[key] for key in ("clean", "robust", "sets")
    }
    (row,) = spared["queries"]
    assert (row["value"], row["samples"], row["budget"]) == (1.0, 12, 300)
    assert broken["queries"][0]["value"] == 0
    assert broken["queries"][0]["queries"] < 20 * 300
    # Replay fools it on the first 16 and on the last; queries on the first 20.
    assert replayed["robust"]["value"] == 13 / SAMPLES
    assert broken["robust"]["value"] == 9 / SAMPLES


def test_the_verdict_compares_with_the_fp32_twin(
    tmp_path: Path, engines: dict[str, Path], sets: EvaluationSets, host: Host
) -> None:
    """The engine that says "top" to everything withstands all of its few right answers, the twin none."""
    only_top = np.flatnonzero(sets.labels == 0)[:10]
    few = replace(
        sets, images={name: images[only_top] for name, images in sets.images.items()}, labels=sets.labels[only_top]
    )
    metrics = attacked(engines, few, host, tmp_path / "out", BREAKS)
    masked = metrics["engines"]["dense-int8"]["masking"]
    assert (masked["finding"], masked["twin"]) == ("masked", "dense-fp32")
    assert masked["over_twin"]["low"] > 0
    assert metrics["engines"]["dense-fp32"]["masking"]["twin"] is None
    assert metrics["query_plan"] == asdict(BREAKS)
    written = json.loads((tmp_path / "out" / REPLAY_FILE).read_text())
    assert written[WITHSTOOD]["dense-int8"]["square"] == "1" * 10
    assert written[WITHSTOOD]["dense-fp32"]["square"] == "0" * 10


def test_sets_made_without_gradients_are_no_white_box(
    tmp_path: Path, engines: dict[str, Path], sets: EvaluationSets, host: Host
) -> None:
    renamed = replace(sets, infos=tuple(replace(info, method="square") for info in sets.infos[1:]))
    renamed = replace(renamed, infos=(sets.infos[0], *renamed.infos))
    by_gradients, by_queries = (
        attacked(engines, found, host, tmp_path / "out", SPARES)["engines"]["dense-fp32"]["masking"]
        for found in (sets, renamed)
    )
    assert by_gradients["white_box"] == "fgsm_dense"
    assert by_queries["white_box"] is None


def test_with_queries_alone_only_the_asked_count(
    tmp_path: Path, engines: dict[str, Path], sets: EvaluationSets, host: Host
) -> None:
    """Samples that met no attack are no proof."""
    calm = replace(sets, infos=tuple(info for info in sets.infos if info.kind != "adversarial"))
    found = attacked(engines, calm, host, tmp_path / "out", SPARES)["engines"]["dense-fp32"]
    assert {key: found["robust"][key] for key in ("value", "low", "high")} == wilson(12, 12).as_dict()
    assert found["worst_class"]["classes"] == 3
    assert found["masking"]["finding"] == "unknown"


def test_only_classes_are_asked(tmp_path: Path, engines: dict[str, Path], sets: EvaluationSets, host: Host) -> None:
    masks = replace(sets, scoring=Scoring(kind="segmentation"))
    with pytest.raises(DataError, match="segmentation"):
        attacked(engines, masks, host, tmp_path / "out", BREAKS)
    assert not (tmp_path / "out").exists()


def test_a_job_carries_the_plan(tmp_path: Path, engines: dict[str, Path], sets: EvaluationSets, host: Host) -> None:
    (tmp_path / "sets").mkdir()
    write_sets(tmp_path / "sets", sets)
    inputs = {**{f"engine {name}": place for name, place in engines.items()}, "sets": tmp_path / "sets"}
    job = write_job(tmp_path / "job", "attack", AttackJob(baseline="dense-fp32", queries=BREAKS), inputs)
    assert run_stage(job, no_progress)["metrics"] == attacked(engines, sets, host, tmp_path / "out", BREAKS)


@pytest.fixture
def run_evidence(
    evidence: Path, engines: dict[str, Path], sets: EvaluationSets, host: Host, seal: Callable[[Path], None]
) -> Path:
    """Evidence of a run that asked queries; the engine that ships is the FP32 one."""
    attack_engines(engines, "dense-fp32", sets, host, evidence / "results", no_progress, queries=BREAKS)
    seal(evidence)
    return evidence


def in_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert main([*map(str, arguments), "--allow-unsigned", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_agent_asks_by_the_plan_of_the_run(
    deploy: Path, run_evidence: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = in_json(capsys, "attack", deploy, run_evidence, "--queries", 300)
    (row,) = found["queries"]
    assert (row["method"], row["budget"], row["samples"], row["epsilon"], row["value"]) == ("square", 300, 12, 0.3, 0)
    assert found["worst_case"]["value"] == 13 / SAMPLES
    shorter = in_json(capsys, "attack", deploy, run_evidence, "--queries", 2)
    assert shorter["queries"][0]["queries"] <= 24
    assert in_json(capsys, "attack", deploy, run_evidence)["queries"] == []


def test_the_agent_compares_with_what_the_run_saw_of_the_twin(
    deploy: Path, run_evidence: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bundle of `dense-int8`: its twin's answers lie in the evidence, for the same plan only."""
    manifest = deploy / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"engine": "dense-int8"}))
    stages = {"stages": {"engine dense-int8": {"digest": "0" * 64}}}
    for place in (manifest, run_evidence / "manifest.json"):
        place.write_text(json.dumps(json.loads(place.read_text()) | stages))
    same = in_json(capsys, "attack", deploy, run_evidence, "--queries", 300)["masking"]
    assert same["twin"] == "dense-fp32, in the run"
    assert same["over_twin"]["value"] == 0
    assert in_json(capsys, "attack", deploy, run_evidence, "--queries", 299)["masking"]["twin"] is None


def test_without_a_plan_square_is_asked_within_the_sets_epsilon(
    deploy: Path, evidence: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (row,) = in_json(capsys, "attack", deploy, evidence, "--queries", 50)["queries"]
    assert (row["method"], row["samples"], row["epsilon"]) == ("square", SAMPLES, 0.3)
    assert main(["attack", str(deploy), str(evidence), "--allow-unsigned", "--queries", "50"]) == 0
    text = capsys.readouterr().out
    assert "at most 50 queries each on 30 samples, ε = 0.3" in text
    assert "right on the clean image, on every adversarial one and under queries" in text


def test_sets_in_l2_give_a_plan_in_l2(evidence: Path, sets: EvaluationSets) -> None:
    """By the widest ball; without any adversarial set, nothing says how far an image may be changed."""
    bundle = open_bundle(evidence, "evidence", Trust(allow_unsigned=True))
    infos = [replace(info, norm="l2") if info.kind == "adversarial" else info for info in sets.infos]
    infos[1] = replace(infos[1], epsilon=0.5)
    plan = plan_of(bundle, replace(sets, infos=tuple(infos)), 50)
    assert (plan.attacks, plan.norm, plan.epsilon, plan.queries) == (("square",), "l2", 0.5, 50)
    with pytest.raises(DataError, match="hold no adversarial set"):
        plan_of(bundle, replace(sets, infos=sets.infos[:1]), 50)


@pytest.mark.parametrize(
    ("key", "value"),
    [("queries", 0), ("epsilon", float("nan")), ("samples", -1), ("attacks", ["dice"]), ("epsilon", "much")],
)
def test_a_plan_that_makes_no_sense_is_named(
    deploy: Path,
    run_evidence: Path,
    seal: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
    key: str,
    value: object,
) -> None:
    results = run_evidence / "results" / REPLAY_FILE
    content = json.loads(results.read_text())
    content["query_plan"][key] = value
    results.write_text(json.dumps(content))
    seal(run_evidence)
    code = main(["attack", str(deploy), str(run_evidence), "--allow-unsigned", "--queries", "5"])
    assert code == BundleError.exit_code
    assert "query_plan" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-3", "many", "1.5", "9" * 9])
def test_a_budget_that_is_none_is_refused(
    deploy: Path, evidence: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["attack", str(deploy), str(evidence), "--queries", text])
    assert ended.value.code == 2
    assert "whole number" in capsys.readouterr().err
