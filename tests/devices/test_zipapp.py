"""The agent as one file: small, the same each time, and enough for a Python 3.10 with numpy and an engine runtime."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devices.agent_stage import AttackJob
from devices.engine_files import read_engine
from devices.engines.onnxruntime import open_reference
from devices.errors import BundleError, DeviceError
from devices.files import digest_bytes
from devices.profile import profile_names
from devices.robustness import EvaluationSets
from devices.zipapp import agent_zipapp, write_agent
from tests.devices.parts import write_sets
from tests.devices.pythons import find_python
from tests.devices.test_agent_stage import write_job


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent, in a folder whose `devices` and `numpy` are not the ones."""
    path = tmp_path_factory.mktemp("board") / "agent.pyz"
    write_agent(path)
    for name in ("devices", "numpy"):
        (path.parent / f"{name}.py").write_text("raise SystemExit('taken from the current folder')")
    return path


def run(python: str, agent: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [python, str(agent), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=agent.parent, env={})


def in_json(python: str, agent: Path, *arguments: object) -> Any:
    done = run(python, agent, *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_it_is_small_and_the_same_each_time(tmp_path: Path) -> None:
    content = agent_zipapp()
    assert len(content) <= 1_000_000
    assert agent_zipapp() == content
    assert write_agent(tmp_path / "agent.pyz") == digest_bytes(content)
    assert (tmp_path / "agent.pyz").stat().st_mode & 0o111


def test_it_holds_sources_alone() -> None:
    with zipfile.ZipFile(io.BytesIO(agent_zipapp())) as archive:
        names = archive.namelist()
    assert names == sorted(names)
    assert {Path(name).suffix for name in names} == {".py", ".toml"}
    assert {name.split("/")[0] for name in names} == {"__main__.py", "devices", "tomli"}
    assert {f"devices/profiles/{name}.toml" for name in profile_names()} <= set(names)


def test_a_real_3_10_reads_every_profile_and_detects(python310: str, agent: Path) -> None:
    found = in_json(python310, agent, "detect")
    assert found["host"]["python"].startswith("3.10.")
    assert "cpu" in found["profiles"]
    done = run(python310, agent, "detect")
    assert done.returncode == 0
    assert done.stdout.startswith("profiles")


@pytest.mark.parametrize("board", ["python310", "oldest_numpy"])
def test_a_real_3_10_builds_and_replays(
    request: pytest.FixtureRequest, agent: Path, onnx_path: Path, sets: EvaluationSets, tmp_path: Path, board: str
) -> None:
    python: str = request.getfixturevalue(board)
    built = in_json(python, agent, "build", onnx_path, tmp_path / "engine")
    content, info = read_engine(tmp_path / "engine")
    assert built["size_bytes"] == len(content)
    assert built["engine"] == json.loads(json.dumps(info.as_dict()))
    (tmp_path / "sets").mkdir()
    write_sets(tmp_path / "sets", sets)
    inputs = {"engine a": tmp_path / "engine", "sets": tmp_path / "sets"}
    job = write_job(tmp_path / "job", "attack", AttackJob(baseline="a"), inputs)
    done = run(python, agent, "stage", job)
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads((job / "result.json").read_text())
    right = np.mean(open_reference(onnx_path, 1)(sets.images["clean"]).argmax(1) == sets.labels)  # type: ignore[union-attr]
    assert result["metrics"]["engines"]["a"]["clean"]["value"] == pytest.approx(right)
    assert result["host"]["runtimes"]["onnxruntime"] == info.runtime_version


@pytest.mark.parametrize("board", ["python310", "oldest_numpy"])
def test_bench_under_3_10_in_json_and_words(
    request: pytest.FixtureRequest, agent: Path, onnx_path: Path, deploy: Path, tmp_path: Path, seal: Any, board: str
) -> None:
    python: str = request.getfixturevalue(board)
    in_json(python, agent, "build", onnx_path, tmp_path / "engine")
    for name in ("engine.onnx", "engine.json"):
        shutil.copyfile(tmp_path / "engine" / name, deploy / "engine" / name)
    seal(deploy)
    found = in_json(python, agent, "bench", deploy, "--allow-unsigned", "--seconds", "0.05")
    assert found["footprint"]["load_ms"] > 0
    done = run(python, agent, "bench", deploy)
    assert (done.returncode, done.stdout) == (BundleError.exit_code, "")
    assert done.stderr.count("\n") == 1


def test_the_cache_is_all_that_it_leaves(python310: str, agent: Path, tmp_path: Path) -> None:
    assert run(python310, agent, "clean", "--cache", tmp_path / "cache").returncode == 0
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "mine").write_text("x")
    done = run(python310, agent, "clean", "--cache", tmp_path / "cache")
    assert done.returncode == 9
    assert (tmp_path / "cache" / "mine").exists()


def test_an_older_python_fails_in_one_message(agent: Path) -> None:
    old = find_python("3.8") or find_python("3.9")
    if old is None:
        pytest.skip("no Python older than 3.10 here")
    done = run(old, agent, "detect")
    assert done.returncode != 0
    assert re.fullmatch(r"espalier-agent: Python 3\.[89]\.\d+ is too old: 3\.10 or later is needed\n", done.stderr)


def test_a_build_for_what_this_is_not_is_refused(python310: str, agent: Path, onnx_path: Path, tmp_path: Path) -> None:
    done = run(python310, agent, "build", onnx_path, tmp_path / "engine", "--device", "jetson-orin-nano-8gb")
    assert done.returncode == DeviceError.exit_code
    assert "--force" in done.stderr
    assert not (tmp_path / "engine").exists()
