"""`[measure] tune`: a step before each engine, stored, whose choice the engine is built with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from devices.engine_files import read_info
from devices.engines.ort_options import options_of
from devices.errors import RecipeError
from devices.tune import TUNED_FILE, read_tuned
from tests import drill

TUNE = ("--set", "measure.tune=true", "--set", "measure.duration_s=0.1")


def _results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "run.json").read_text())["results"]
    return found


def test_each_engine_is_built_with_what_was_measured_for_it(drilled: tuple[Path, Path], tmp_path: Path) -> None:
    store = Path(shutil.copytree(drilled[0], tmp_path / "store"))
    first = drill.run(store, tmp_path / "run", *TUNE)
    assert first.returncode == 0, first.stderr
    results = _results(tmp_path / "run")
    engines = [name.removeprefix("engine ") for name in results if name.startswith("engine ")]
    assert len(engines) == 4
    for name in engines:
        engine, tuned = (
            store / results[f"{kind} {name}"]["stage"] / results[f"{kind} {name}"]["key"]
            for kind in ("engine", "tuned")
        )
        assert options_of(read_info(engine)) == read_tuned(tuned)
        assert json.loads((tuned / TUNED_FILE).read_text())["trials"]
    again = drill.run(store, tmp_path / "again", *TUNE)
    assert again.returncode == 0, again.stderr
    assert _results(tmp_path / "again") == results
    # Without tuning nothing of it is there, and what was stored before serves again.
    assert not any(name.startswith("tuned ") for name in _results(drilled[1]))


def test_another_choice_is_another_engine(drilled: tuple[Path, Path], tmp_path: Path) -> None:
    stages = ["stages", str(drill.DRILL), "--device", "cpu", "--store", str(drilled[0])]
    told = drill.espalier([*stages, *TUNE], tmp_path).stdout.splitlines()
    named = [line.split()[1] + " " + line.split()[2] for line in told if line.split()[0] in ("tune", "build")]
    assert named[:2] == ["tuned dense-fp32", "engine dense-fp32"]
    # An engine cannot be stored before its options are.
    assert all("would run" in line for line in told if line.split()[0] in ("tune", "build"))


def test_a_device_of_another_runtime_is_refused(tmp_path: Path) -> None:
    done = drill.espalier(["stages", str(drill.DRILL), "--device", "rtx-4090", *TUNE[:2]], tmp_path)
    assert done.returncode == RecipeError.exit_code
    assert "measure.tune" in done.stderr
    assert "rtx-4090 runs tensorrt_rtx" in done.stderr


@pytest.mark.parametrize("bad", ['"yes"', "1"])
def test_a_wrong_value_is_named(tmp_path: Path, bad: str) -> None:
    done = drill.espalier(["stages", str(drill.DRILL), "--device", "cpu", "--set", f"measure.tune={bad}"], tmp_path)
    assert done.returncode == RecipeError.exit_code
    assert "measure.tune" in done.stderr
