"""From what ships back to where it came from: every link is checked, and the first that is broken is named."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.bundle import open_bundle
from devices.errors import BundleError
from devices.files import digest_file, digest_value
from devices.trust.store import UNSIGNED
from pipeline.attest.explain import explain
from pipeline.attest.format import file_of
from pipeline.attest.read import read_steps
from tests.pipeline.attest.resealed import change_json, reseal


@pytest.fixture
def run(drilled: tuple[Path, Path], tmp_path: Path) -> Path:
    """A run's folder to change."""
    shutil.copytree(drilled[1], tmp_path / "run")
    return tmp_path / "run"


def explained(run: Path) -> list[str]:
    evidence = open_bundle(run / "evidence", "evidence", UNSIGNED)
    deploy = open_bundle(run / "deploy", "deploy", UNSIGNED) if (run / "deploy").exists() else None
    return explain(evidence, deploy)


def broken(run: Path) -> str:
    with pytest.raises(BundleError) as caught:
        explained(run)
    return str(caught.value)


def statement(run: Path, step: str) -> Path:
    return run / "evidence" / "attestations" / file_of(step)


def test_a_run_is_explained_down_to_its_sources(drilled: tuple[Path, Path]) -> None:
    lines = explained(drilled[1])
    assert lines[0] == "deploy: 6 files, as attested"
    text = "\n".join(lines)
    order = ["engine compressed-int8", "quantized compressed", "simplified compressed", "exported compressed"]
    order += ["recovered", "pruned", "dense", "source: model from network.py:tiny", "source: data from", "verdict"]
    places = [text.index(name) for name in order]
    assert places == sorted(places)
    assert "trained with seed 0" in text
    assert lines[-1].endswith("links: all match")


def test_statements_are_in_toto_and_hold_what_made_the_step(drilled: tuple[Path, Path]) -> None:
    """Materials, products, configuration, versions, seed, metrics with their digest, class of the host."""
    store, run = drilled
    link = json.loads((run / "run.json").read_text())["results"]["recovered"]
    result = json.loads((store / link["stage"] / link["key"] / "result.json").read_text())
    told = json.loads(statement(run, "recovered").read_text())
    assert told["_type"] == "https://in-toto.io/Statement/v1"
    assert told["predicateType"] == "https://slsa.dev/provenance/v1"
    assert {row["name"]: row["digest"]["sha256"] for row in told["subject"]} == result["files"]
    for name, digest in result["files"].items():
        assert digest_file(store / link["stage"] / link["key"] / name) == digest
    definition, details = told["predicate"]["buildDefinition"], told["predicate"]["runDetails"]
    assert definition["externalParameters"]["config"]["finetune"]["epochs"] == 1
    assert definition["externalParameters"]["seed"] == 0
    assert definition["internalParameters"]["libraries"]["torch"]
    pruned = json.loads((run / "run.json").read_text())["results"]["pruned"]["digest"]
    materials = definition["resolvedDependencies"]
    assert {"name": "step pruned", "digest": {"espalier-files-v1": pruned}} in materials
    assert details["metadata"]["invocationId"] == link["key"]
    (told_metrics,) = details["byproducts"]
    assert told_metrics["digest"] == {"espalier-value-v1": digest_value(result["metrics"])}
    assert told_metrics["annotations"]["values"] == result["metrics"]
    assert result["metrics"]["epochs_run"] == 1


def test_every_result_of_the_run_has_its_statement(drilled: tuple[Path, Path]) -> None:
    results = json.loads((drilled[1] / "run.json").read_text())["results"]
    steps = read_steps(open_bundle(drilled[1] / "evidence", "evidence", UNSIGNED))
    assert set(steps) == set(results) - {"evidence"}
    assert {name: step.digest for name, step in steps.items()} == {name: results[name]["digest"] for name in steps}


def test_a_swapped_engine_is_named(run: Path) -> None:
    engine = run / "deploy" / "engine" / "engine.onnx"
    engine.write_bytes(engine.read_bytes() + b"x")
    reseal(run / "deploy")
    assert broken(run).startswith("deploy/engine/engine.onnx: this link is broken: is not the file that was attested")


def test_an_engine_that_the_bundles_statement_was_changed_for_is_named(run: Path) -> None:
    """The statement of the bundle fits the other engine; that of the engine does not."""
    engine = run / "deploy" / "engine" / "engine.onnx"
    engine.write_bytes(engine.read_bytes() + b"x")
    reseal(run / "deploy")
    found = {path: digest_file(run / "deploy" / path) for path in ("engine/engine.onnx", "manifest.json")}

    def swap(told: Any) -> None:
        for row in told["subject"]:
            row["digest"]["sha256"] = found.get(row["name"], row["digest"]["sha256"])

    change_json(statement(run, "deploy"), swap)
    _attest_again(run)
    assert broken(run).startswith("deploy/engine/engine.onnx <- engine compressed-int8: this link is broken")


def _attest_again(run: Path) -> None:
    """Make the evidence's manifest name the digest that the statement of the bundle has now."""
    told = json.loads(statement(run, "deploy").read_text())
    digest = digest_value({row["name"]: row["digest"]["sha256"] for row in told["subject"]})
    change_json(run / "evidence" / "manifest.json", lambda raw: raw["stages"]["deploy"].update(digest=digest))
    reseal(run / "evidence")


def _subject(told: Any) -> None:
    told["subject"][0]["digest"]["sha256"] = "0" * 64


def _config(told: Any) -> None:
    told["predicate"]["buildDefinition"]["externalParameters"]["config"]["model"]["args"]["channels"] = 9


def _input(told: Any) -> None:
    materials = told["predicate"]["buildDefinition"]["resolvedDependencies"]
    next(row for row in materials if row["name"] == "step dense")["digest"]["espalier-files-v1"] = "0" * 64


def _metrics(told: Any) -> None:
    """As an older statement, which carries the digest alone."""
    (row,) = told["predicate"]["runDetails"]["byproducts"]
    row["digest"]["espalier-value-v1"] = "0" * 64
    del row["annotations"]


def _digest_of_metrics(told: Any) -> None:
    told["predicate"]["runDetails"]["byproducts"][0]["digest"]["espalier-value-v1"] = "0" * 64


def _value_of_metrics(told: Any) -> None:
    told["predicate"]["runDetails"]["byproducts"][0]["annotations"]["values"]["epochs_run"] = 100


def _deep_in_metrics(told: Any) -> None:
    engines = told["predicate"]["runDetails"]["byproducts"][0]["annotations"]["values"]["engines"]
    engines["compressed-int8"]["robust"]["value"] = 1.0


def _both_of_metrics(told: Any) -> None:
    """Values and their digest, together: then they are not those of the manifest."""
    (row,) = told["predicate"]["runDetails"]["byproducts"]
    row["annotations"]["values"]["passed"] = not row["annotations"]["values"]["passed"]
    row["digest"]["espalier-value-v1"] = digest_value(row["annotations"]["values"])


@pytest.mark.parametrize(
    ("step", "change", "link"),
    [
        ("dense", _subject, "<- dense"),
        ("pruned", _subject, "<- pruned"),
        ("pruned", _input, "pruned <- dense"),
        ("dense", _config, "dense <- model"),
        ("verdict", _metrics, "evidence/manifest.json: verdict"),
        ("verdict", _digest_of_metrics, "verdict: metrics"),
        ("recovered", _value_of_metrics, "recovered: metrics"),
        ("replays", _deep_in_metrics, "replays: metrics"),
        ("verdict", _both_of_metrics, "evidence/manifest.json: verdict"),
    ],
)
def test_a_changed_statement_breaks_a_link(run: Path, step: str, change: Callable[[Any], None], link: str) -> None:
    change_json(statement(run, step), change)
    reseal(run / "evidence")
    assert f"{link}: this link is broken" in broken(run)


def test_statements_of_before_they_carried_metrics_are_read(run: Path) -> None:
    before = explained(run)

    def older(told: Any) -> None:
        del told["predicate"]["runDetails"]["byproducts"][0]["annotations"]

    for path in (run / "evidence" / "attestations").iterdir():
        change_json(path, older)
    reseal(run / "evidence")
    assert explained(run) == before


def test_a_file_that_no_step_made_is_named(run: Path) -> None:
    (run / "evidence" / "sets" / "labels.npy").write_bytes(b"other labels")
    reseal(run / "evidence")
    assert "evidence/sets/labels.npy: this link is broken: no step made this file" in broken(run)


def test_a_missing_statement_is_named(run: Path) -> None:
    statement(run, "pruned").unlink()
    reseal(run / "evidence")
    assert "no statement tells how 'pruned' was made" in broken(run)


@pytest.mark.parametrize("content", ["[]", "{}", '{"_type": "https://in-toto.io/Statement/v1"}', "{", "null"])
def test_what_is_no_statement_is_one_message(run: Path, content: str) -> None:
    statement(run, "pruned").write_text(content)
    reseal(run / "evidence")
    assert "attestations/pruned.json" in broken(run)


def test_evidence_of_before_there_were_statements_says_so(run: Path) -> None:
    shutil.rmtree(run / "evidence" / "attestations")
    reseal(run / "evidence")
    assert "attests no step" in broken(run)


def test_what_is_not_here_is_said_to_be_not_looked_at(run: Path) -> None:
    shutil.rmtree(run / "deploy")
    assert explained(run)[0] == "what ships is not here, and was not looked at"


_VALUES = st.one_of(st.none(), st.integers(), st.text(max_size=5), st.just([]), st.just({}), st.just([{}]))


@settings(max_examples=150)
@given(data=st.data(), value=_VALUES)
def test_statements_that_anybody_could_write_are_one_message(
    drilled: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, value: object
) -> None:
    """Any value of any statement replaced by one of another kind: refused, or it told nothing that is checked."""
    run = tmp_path_factory.getbasetemp() / "fuzzed"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(drilled[1], run)
    step = data.draw(st.sampled_from(["dense", "pruned", "verdict", "decision", "deploy", "engine compressed-int8"]))

    def replace_one(node: Any) -> None:
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            key = data.draw(st.sampled_from(keys))
            if isinstance(node[key], (dict, list)) and node[key] and data.draw(st.booleans()):
                node = node[key]
                continue
            node[key] = value
            return

    change_json(statement(run, step), replace_one)
    reseal(run / "evidence")
    with contextlib.suppress(BundleError):
        explained(run)
