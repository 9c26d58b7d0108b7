"""Threats of small devices as a user meets them: a recipe that tries all, its report, and `espalier attack`."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from devices.bundle import open_bundle, write_manifest
from devices.errors import RecipeError
from devices.trust.store import Trust
from pipeline.cli import main
from pipeline.commands.attack import STORED
from pipeline.recipe import read_recipe
from pipeline.steps.scan import TORCH_FORM, TWIN_FORM
from pipeline.threats.report import read_threats
from tests.pipeline.commands.attack_parts import MIXED, RECIPE

NAMES = [
    "evasion",
    "queries",
    "backdoor",
    "differential",
    "patch",
    "universal",
    "calibration",
    "bit_errors",
    "membership",
]
ENGINES = {"dense-fp32", "dense-int8", "compressed-fp32", "compressed-int8"}
INT8 = {"dense-int8", "compressed-int8"}
# A scan looks at networks.
NETWORKS = {"dense", "dense int8", "pruned", "pruned int8"}
ENGINES_OF: dict[str, set[str]] = {"differential": INT8, "calibration": INT8, "backdoor": NETWORKS}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run."""
    folder = tmp_path_factory.mktemp("edge")
    (folder / "edge.toml").write_text(RECIPE + MIXED)
    out = folder / "run"
    assert main(["run", str(folder / "edge.toml"), "--store", str(folder / "store"), "--out", str(out)]) == 0
    return out


def test_every_threat_is_in_the_report_the_page_and_the_evidence(run: Path) -> None:
    """On every engine, with an interval, a paired change and what it does not show; every budget found its figure."""
    report = json.loads((run / "report.json").read_text())
    threats = {threat["name"]: threat for threat in report["threats"]}
    assert list(threats) == NAMES
    for name in NAMES:
        judged = [figure for figure in threats[name]["figures"] if figure["role"] != "control"]
        engines = {figure["artifact"] for figure in judged}
        assert engines == ENGINES_OF.get(name, ENGINES)
        for figure in judged:
            assert figure["interval"]["low"] <= figure["interval"]["value"] <= figure["interval"]["high"]
            assert figure["artifact"] != "compressed-int8" or figure["changes"]
        assert threats[name]["not_shown"]
    assert all(budget["met"] and budget["value"] is not None for budget in report["verdict"]["budgets"])
    page = (run / "report.html").read_text()
    for title in ("Printable patch", "Bit errors in weights", "Membership inference", "Poisoned calibration"):
        assert f"<h3>{title}</h3>" in page
    evidence = open_bundle(run / "evidence", "evidence", Trust(allow_unsigned=True))
    assert read_threats(evidence) == report["threats"]
    assert "results/threat-membership/threat.json" in evidence.digests
    forms = {"dense": TORCH_FORM, "dense-int8": TWIN_FORM, "pruned": TORCH_FORM, "pruned-int8": TWIN_FORM}
    for network, form in forms.items():
        scan = evidence.read_json(f"results/scan-{network}/scan.json")
        assert scan["form"] == form
        assert [finding["method"] for finding in scan["findings"]] == ["inversion"]
        assert f"results/scan-{network}/triggers.npz" in evidence.digests


def attack(target: Path, *arguments: str) -> int:
    return main(["attack", str(target), "--allow-unsigned", *arguments])


def test_a_run_is_attacked_threat_by_threat(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What can be tried on the bundle is tried on its engine; the rest is told as the run found it."""
    code = attack(run, "--samples", "40", "--queries", "4", "--json", str(tmp_path / "found.json"))
    assert code == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert {threat["name"] for threat in found["threats"]} == {"patch", "universal", "bit_errors", *STORED}
    assert found["attack"]["queries"][0]["method"] == "square"
    patch = next(threat for threat in found["threats"] if threat["name"] == "patch")
    assert {figure["artifact"] for figure in patch["figures"]} == {"compressed-int8"}
    assert {figure["samples"] for figure in found["threats"][2]["figures"]} == {20}
    # By the budget of the run.
    assert "class 7" in patch["tried"]
    assert patch["budget"].startswith("25 % of the area, 2 steps")
    budgets = [threat["budget"] for threat in found["threats"]]
    assert budgets[1].startswith("ε = 0.05 (Linf), 2 steps")
    assert budgets[2] == "rates 0.003; 2 memories each"
    text = capsys.readouterr().out
    assert "Printable patch" in text
    assert "not shown:" in text


def test_a_bundle_is_attacked_with_the_evidence_beside_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One threat alone, by name: nothing else runs or is printed."""
    assert attack(run / "deploy", "--threats", "bit_errors", "--samples", "40") == 0
    text = capsys.readouterr().out
    assert text.startswith("Bit errors in weights")
    assert "Membership" not in text


def bundles_of(run: Path, folder: Path) -> tuple[Path, Path]:
    """Copies of both bundles, to change."""
    deploy, evidence = (Path(shutil.copytree(run / name, folder / name)) for name in ("deploy", "evidence"))
    return deploy, evidence


def seal(bundle: Path) -> None:
    """A manifest that is true of what the bundle holds now."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    content = {key: value for key, value in manifest.items() if key not in ("format", "kind", "files")}
    write_manifest(bundle, manifest["kind"], content)


def test_what_a_bundle_does_not_allow_is_left_out_unless_it_is_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of a graph alone: no adversarial set, nothing asked, and no gradients of what computes in FP8."""
    deploy, evidence = bundles_of(run, tmp_path)
    index = json.loads((evidence / "sets" / "sets.json").read_text())
    index["sets"] = [info for info in index["sets"] if info["kind"] != "adversarial"]
    (evidence / "sets" / "sets.json").write_text(json.dumps(index))
    for path in (evidence / "results").rglob("replay.json"):
        path.unlink()
    seal(evidence)
    graph = onnx.load(deploy / "model.onnx")
    graph.graph.initializer.append(helper.make_tensor("eighth", TensorProto.FLOAT8E4M3FN, [1], [1.0]))
    onnx.save(graph, deploy / "model.onnx")
    info = json.loads((deploy / "engine" / "engine.json").read_text())
    info["onnx_sha256"] = hashlib.sha256((deploy / "model.onnx").read_bytes()).hexdigest()
    (deploy / "engine" / "engine.json").write_text(json.dumps(info))
    seal(deploy)
    assert attack(deploy, "--samples", "40", "--json", str(tmp_path / "found.json")) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert {threat["name"] for threat in found["threats"]} == {"bit_errors", *STORED}
    assert [info["kind"] for info in found["attack"]["sets"]] == ["clean"]
    assert {left["threat"] for left in found["left_out"]} == {"queries", "patch", "universal"}
    *_, queries, gradients = capsys.readouterr().out.splitlines()
    assert queries.startswith("not tried: queries. evaluation sets: name no ε: they hold no adversarial set")
    assert gradients.startswith(f"not tried: patch, universal. {deploy / 'model.onnx'}: computes in FP8")
    for name, code in (("queries", 5), ("patch", 4), ("universal,bit_errors", 4)):
        assert attack(deploy, "--samples", "40", "--threats", name) == code
        assert capsys.readouterr().out == ""


def test_an_engine_that_answers_at_random_is_given_no_figure(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bit errors are of its graph, which does not."""
    deploy, _ = bundles_of(run, tmp_path)
    place = deploy / "engine" / "engine.onnx"
    model = onnx.load(place)
    (output,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["steady" if name == output.name else name for name in node.output]
    noise = helper.make_node("RandomNormalLike", ["steady"], ["noise"], scale=1000.0, dtype=TensorProto.FLOAT)
    model.graph.node.extend([noise, helper.make_node("Add", ["steady", "noise"], [output.name])])
    onnx.save(model, place)
    seal(deploy)
    assert attack(deploy, "--threats", "universal,patch", "--samples", "40") == 4
    said = capsys.readouterr()
    assert "engine compressed-int8: answers at random" in said.err
    assert said.out == ""
    assert attack(deploy, "--samples", "40") == 0
    text = capsys.readouterr().out
    assert "the engine answers at random" in text
    assert "Bit errors in weights" in text
    assert "not tried: patch, universal. engine compressed-int8: answers at random" in text


def without_threats(run: Path, folder: Path) -> Path:
    """The run's evidence as it was before there were threat reports."""
    shutil.copytree(run / "evidence", folder / "evidence")
    shutil.copytree(run / "deploy", folder / "deploy")
    manifest = json.loads((folder / "evidence" / "manifest.json").read_text())
    (folder / "evidence" / "threats.json").unlink()
    content = {key: value for key, value in manifest.items() if key not in ("format", "kind", "files")}
    write_manifest(folder / "evidence", "evidence", content)
    return folder / "deploy"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--threats", "membership"), 7, "holds no 'membership'"),
        (("--threats", "patch", "--samples", "39"), 5, "Give 40 at least"),
        (("--threats", "patch", "--evidence", "nowhere"), 7, "nowhere"),
    ],
)
def test_what_cannot_be_tried_is_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, said: str
) -> None:
    """With what to do, and nothing is tried."""
    assert attack(without_threats(run, tmp_path), *arguments) == code
    assert said in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert attack(tmp_path / "gone") == 7
    assert f"{tmp_path / 'gone'}: is not a folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["differential", "patch", "replay"])
def test_evidence_of_another_engine_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """What another run found is not said of this one."""
    deploy = without_threats(run, tmp_path)
    manifest = json.loads((deploy / "manifest.json").read_text())
    manifest["stages"]["engine compressed-int8"]["digest"] = "0" * 64
    content = {key: value for key, value in manifest.items() if key not in ("format", "kind", "files")}
    write_manifest(deploy, "deploy", content)
    assert attack(deploy, "--evidence", str(run / "evidence"), "--threats", name) == 7
    assert "is not the evidence of the engine" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("--threats", "patches"), ("--samples", "0"), ("--queries", "no")])
def test_a_wrong_option_is_refused(run: Path, arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit, match="2"):
        attack(run, *arguments)


def test_a_damaged_threat_report_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deploy = without_threats(run, tmp_path)
    evidence = tmp_path / "evidence"
    (evidence / "threats.json").write_text('{"format": "espalier-threats/1", "threats": [{"name": "patch"}]}')
    manifest: dict[str, Any] = json.loads((evidence / "manifest.json").read_text())
    write_manifest(evidence, "evidence", {key: manifest[key] for key in manifest if key not in ("kind", "files")})
    assert attack(deploy) == 7
    assert "threats.json: is not a threat report" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (['threats.edge=["patch","patch"]'], "names a threat twice"),
        (["threats.edge_budget.shadows=2"], "4 at least"),
        (["threats.edge_budget.shadows=5"], "shadows"),
        (["threats.edge_budget.bit_error_rates=[0.1,0.1]"], "names a value twice"),
        (["quantize.precision='fp32'", 'threats.edge=["calibration"]'], "needs quantize.precision = 'int8'"),
        (['threats.edge=["patches"]'], "patch"),
        (["quantize.precision='bf16'", 'threats.edge=["bit_errors"]'], "no BF16 or FP8"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(tmp_path: Path, settings: list[str], said: str) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(RECIPE)
    with pytest.raises(RecipeError, match=said):
        read_recipe(path, settings)
