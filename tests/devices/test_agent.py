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

import pytest

import devices
from devices.agent import main
from devices.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_USAGE, BundleError, DeviceError
from devices.profile import profile_names
from tests.devices.agent_parts import Capture, fails, in_json


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
