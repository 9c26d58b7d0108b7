"""`espalier-agent` as a user meets it: text, JSON, errors in one line, exit codes, and as a zipapp."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipapp
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import devices
from devices.agent import main
from devices.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_USAGE, BundleError, DataError, DeviceError
from devices.profile import profile_names
from devices.statistics import wilson
from tests.devices.parts import SAMPLES

Capture = pytest.CaptureFixture[str]


def in_json(capsys: Capture, *arguments: object) -> Any:
    assert main([*map(str, arguments), "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return json.loads(captured.out)


def fails(capsys: Capture, *arguments: object) -> tuple[int, str]:
    """Exit code and the one line on stderr."""
    code = main([*map(str, arguments)])
    captured = capsys.readouterr()
    assert captured.out == ""
    # Another run of these tests beside this one has the machine for a moment.
    lines = [line for line in captured.err.splitlines() if "another measurement" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("espalier-agent: ")
    assert "Traceback" not in captured.err
    return code, captured.err


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


def test_an_engine_for_elsewhere_is_refused(deploy: Path, seal: Callable[[Path], None], capsys: Capture) -> None:
    path = deploy / "engine" / "engine.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"runtime_version": "0.1.0"}))
    seal(deploy)
    code, line = fails(capsys, "bench", deploy, "--allow-unsigned")
    assert code == DeviceError.exit_code
    assert "0.1.0" in line


def test_bench_measures_the_shipped_engine(deploy: Path, capsys: Capture) -> None:
    found = in_json(capsys, "bench", deploy, "--allow-unsigned", "--seconds", "0.05")
    latency = found["latency"]
    assert latency["rounds"] >= 40
    assert 0 < latency["p50_ms"]["low"] <= latency["p50_ms"]["value"] <= latency["p99_ms"]["value"]
    assert found["size_bytes"] == (deploy / "engine" / "engine.onnx").stat().st_size
    assert found["footprint"]["peak_memory_bytes"] > 10e6
    assert found["pinned_cpus"] == [max(os.sched_getaffinity(0))]
    assert found["engine"]["input_shape"] == [1, 6, 6]


@pytest.mark.parametrize("name", ["none", "deploy/labels.json"])
def test_bench_of_what_is_no_bundle_says_so(deploy: Path, capsys: Capture, name: str) -> None:
    code, line = fails(capsys, "bench", deploy.parent / name, "--allow-unsigned")
    assert code == BundleError.exit_code
    assert "is not a folder" in line


def test_detect_tells_host_and_profiles(capsys: Capture) -> None:
    found = in_json(capsys, "detect")
    assert set(found["profiles"]) <= set(profile_names())
    assert found["host"]["cpus"] == len(os.sched_getaffinity(0))
    assert main(["detect"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("profiles")
    assert found["host"]["cpu_model"] in text


@pytest.mark.parametrize(
    "arguments",
    [[], ["bench"], ["attack", "one"], ["fly"], ["detect", "--fast"]]
    + [["bench", "x", "--seconds", bad] for bad in ("0", "-1", "nan", "inf", "soon", "1e9")],
)
def test_a_wrong_command_line_is_usage(capsys: Capture, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == EXIT_USAGE
    captured = capsys.readouterr()
    assert captured.err.startswith("usage: espalier-agent")
    assert "_seconds" not in captured.err


def test_debug_shows_the_error_itself(deploy: Path) -> None:
    with pytest.raises(BundleError):
        main(["bench", str(deploy), "--debug"])


@pytest.mark.parametrize(
    ("fault", "code"), [(RuntimeError("first\nsecond"), EXIT_INTERNAL), (KeyboardInterrupt(), EXIT_INTERRUPTED)]
)
def test_a_fault_of_its_own_is_one_line_and_an_interrupt_none(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, fault: BaseException, code: int
) -> None:
    def detect() -> None:
        raise fault

    monkeypatch.setattr("devices.detect.detect_host", detect)
    assert main(["detect"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    expected = "espalier-agent: internal fault (RuntimeError: first second). Repeat with --debug\n"
    assert captured.err == (expected if code == EXIT_INTERNAL else "")
    with pytest.raises(type(fault)):
        detect()


def test_a_manifest_cannot_write_to_the_terminal(deploy: Path, evidence: Path, capsys: Capture) -> None:
    path = deploy / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"name": "\x1b[2J\nok", "device": ["x" * 1000]}))
    assert main(["attack", str(deploy), str(evidence), "--allow-unsigned"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert len(out.splitlines()[0]) < 300


def agent(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=120, check=False, **options)


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "devices.agent", "detect"],
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
            cwd=Path(devices.__file__).parent.parent,
        )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_terminal_of_ascii_gets_escapes(deploy: Path, evidence: Path) -> None:
    done = agent(
        "-m",
        "devices.agent",
        "attack",
        deploy,
        evidence,
        "--allow-unsigned",
        cwd=Path(devices.__file__).parent.parent,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"\u03b5 = 0.3" in done.stdout


@pytest.fixture
def zipped(tmp_path: Path) -> Path:
    """The agent as one file, in a folder whose `devices` and `numpy` are not ours."""
    source = tmp_path / "source"
    shutil.copytree(Path(devices.__file__).parent, source / "devices", ignore=shutil.ignore_patterns("__pycache__"))
    (source / "__main__.py").write_text("import sys\nfrom devices.agent import main\nsys.exit(main())\n")
    target = tmp_path / "board" / "agent.pyz"
    target.parent.mkdir()
    zipapp.create_archive(source, target)
    for name in ("devices", "numpy"):
        (target.parent / f"{name}.py").write_text("raise SystemExit('taken from the current folder')")
    return target


def test_the_zipapp_knows_its_profiles_and_measures(zipped: Path, deploy: Path) -> None:
    done = agent(zipped, "detect", "--json", cwd=zipped.parent)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "cpu" in json.loads(done.stdout)["profiles"]
    done = agent(zipped, "bench", deploy, "--allow-unsigned", "--seconds", "0.05", "--json", cwd=zipped.parent)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["footprint"]["load_ms"] > 0
    done = agent(zipped, "bench", deploy, cwd=zipped.parent)
    assert done.returncode == BundleError.exit_code
    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1
