"""`espalier-agent attack`: the sets of the evidence through the shipped engine, in words and JSON, and refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from devices.agent import main
from devices.errors import BundleError, DataError
from devices.statistics import wilson
from tests.devices.agent_parts import Capture, fails, in_json
from tests.devices.parts import SAMPLES


def test_attack_replays_the_sets_through_the_shipped_engine(deploy: Path, evidence: Path, capsys: Capture) -> None:
    found = in_json(capsys, "attack", deploy, evidence, "--allow-unsigned")
    assert (found["bundle"], found["evidence"]) == (str(deploy), str(evidence))
    assert (found["name"], found["device"], found["samples"]) == ("rows", "cpu", SAMPLES)
    assert found["clean"] == wilson(29, SAMPLES).as_dict()
    assert found["worst_case"] == wilson(13, SAMPLES).as_dict()
    right = {"clean": 29, "fgsm_dense": 20, "pgd_dense": 22, "invert_1": 0}
    assert [row["name"] for row in found["sets"]] == list(right)
    for row in found["sets"]:
        assert {key: row[key] for key in ("value", "low", "high")} == wilson(right[row["name"]], SAMPLES).as_dict()
    assert found["sets"][1]["surrogate"] == "dense"


def test_attack_in_words(deploy: Path, evidence: Path, capsys: Capture) -> None:
    assert main(["attack", str(deploy), str(evidence), "--allow-unsigned"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split("  ")[1]: " ".join(line.split("  ")[2:]).split() for line in lines[2:]}
    assert lines[0].startswith("rows for cpu, on ")
    assert lines[1].strip() == "30 samples; accuracy in %, with its 95 % interval"
    assert rows["clean"] == ["96.67", "(83.33", "to", "99.41)"]
    assert rows["worst case"][:4] == ["43.33", "(27.38", "to", "60.80)"]
    assert rows["fgsm_dense"][4:] == ["fgsm", "by", "the", "gradients", "of", "dense,", "ε", "=", "0.3"]
    assert rows["invert_1"][4:] == ["invert,", "strength", "1"]
    assert lines[-1].startswith("  worst case")


def test_attack_says_the_norm_of_a_set_and_that_it_is_bytes(
    deploy: Path, evidence: Path, seal: Callable[[Path], None], capsys: Capture
) -> None:
    index = evidence / "sets" / "sets.json"
    content = json.loads(index.read_text())
    content["sets"][1] |= {"method": "square", "norm": "l2", "epsilon": 1.5, "rounded": True}
    index.write_text(json.dumps(content))
    seal(evidence)
    assert main(["attack", str(deploy), str(evidence), "--allow-unsigned", "--queries", "9"]) == 0
    text = capsys.readouterr().out
    assert "square by the queries of dense, ε = 1.5 (L2), as bytes" in text
    # With balls of both norms in the sets, queries stay within those of Linf.
    assert "at most 9 queries each on 30 samples, ε = 0.3\n" in text
    for row in content["sets"]:
        row["norm"] = "l2"
    index.write_text(json.dumps(content))
    seal(evidence)
    assert main(["attack", str(deploy), str(evidence), "--allow-unsigned", "--queries", "9"]) == 0
    assert "at most 9 queries each on 30 samples, ε = 1.5 (L2)\n" in capsys.readouterr().out


def test_attack_without_adversarial_sets_claims_no_robustness(
    deploy: Path, evidence: Path, seal: Callable[[Path], None], capsys: Capture
) -> None:
    index = evidence / "sets" / "sets.json"
    content = json.loads(index.read_text())
    content["sets"] = [row for row in content["sets"] if row["kind"] != "adversarial"]
    index.write_text(json.dumps(content))
    seal(evidence)
    assert in_json(capsys, "attack", deploy, evidence, "--allow-unsigned")["worst_case"] is None
    assert main(["attack", str(deploy), str(evidence), "--allow-unsigned"]) == 0
    assert "worst case  unknown" in capsys.readouterr().out


def test_attack_clips_what_the_evidence_exaggerates(
    deploy: Path, evidence: Path, seal: Callable[[Path], None], capsys: Capture
) -> None:
    np.save(evidence / "sets" / "fgsm_dense.npy", np.full((SAMPLES, 1, 6, 6), np.nan, dtype=np.float32))
    seal(evidence)
    found = in_json(capsys, "attack", deploy, evidence, "--allow-unsigned")
    assert found["sets"][1]["value"] == found["clean"]["value"]


def test_both_bundles_must_be_allowed_and_of_their_kinds(deploy: Path, evidence: Path, capsys: Capture) -> None:
    code, line = fails(capsys, "attack", deploy, evidence)
    assert code == BundleError.exit_code
    assert "--allow-unsigned" in line
    for arguments in ((evidence, evidence), (deploy, deploy), (evidence, deploy)):
        code, line = fails(capsys, "attack", *arguments, "--allow-unsigned")
        assert code == BundleError.exit_code
        assert "is a bundle of kind" in line


@pytest.mark.parametrize("name", ["sets/sets.json", "sets/pgd_dense.npy", "sets/labels.npy"])
def test_a_tampered_evidence_is_named(deploy: Path, evidence: Path, capsys: Capture, name: str) -> None:
    content = bytearray((evidence / name).read_bytes())
    content[-3] ^= 1
    (evidence / name).write_bytes(content)
    code, line = fails(capsys, "attack", deploy, evidence, "--allow-unsigned")
    assert code == BundleError.exit_code
    assert f"{evidence / name}: differs from the manifest" in line


def test_an_evidence_without_sets_is_named(
    deploy: Path, evidence: Path, seal: Callable[[Path], None], capsys: Capture
) -> None:
    shutil.rmtree(evidence / "sets")
    (evidence / "report.json").write_text("{}")
    seal(evidence)
    code, line = fails(capsys, "attack", deploy, evidence, "--allow-unsigned")
    assert code == BundleError.exit_code
    assert "sets/sets.json: is not in this bundle" in line


def test_evidence_of_other_images_is_refused(
    deploy: Path, evidence: Path, seal: Callable[[Path], None], capsys: Capture
) -> None:
    for path in (evidence / "sets").glob("*.npy"):
        if path.name != "labels.npy":
            np.save(path, np.zeros((SAMPLES, 3, 4, 4), dtype=np.float32))
    seal(evidence)
    code, line = fails(capsys, "attack", deploy, evidence, "--allow-unsigned")
    assert code == DataError.exit_code
    assert "(3, 4, 4)" in line


def test_evidence_of_other_labels_is_refused(
    deploy: Path, evidence: Path, seal: Callable[[Path], None], capsys: Capture
) -> None:
    np.save(evidence / "sets" / "labels.npy", np.arange(SAMPLES))
    seal(evidence)
    assert fails(capsys, "attack", deploy, evidence, "--allow-unsigned")[0] == DataError.exit_code
