"""Load time and memory, from real processes."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from devices.engine_files import ENGINE_FILE, INFO_FILE, read_engine, write_info
from devices.errors import DeviceError
from devices.footprint import measure_footprint


def test_a_fresh_process_tells_what_the_engine_costs(
    engine_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What lies in the current folder is not what is run.
    for name in ("devices", "numpy", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken from the current folder')")
    monkeypatch.chdir(tmp_path)
    found = measure_footprint(engine_folder, repeats=1)
    assert 0 < found.first_query_ms < 60_000
    assert 0 < found.load_ms < 60_000
    assert 10e6 < found.peak_memory_bytes < 2e9
    assert 0 <= found.engine_memory_bytes < found.peak_memory_bytes
    assert json.loads(json.dumps(found.as_dict()))["load_ms"] == found.load_ms


def test_an_engine_that_does_not_run_is_named_with_its_reason(engine_folder: Path, tmp_path: Path) -> None:
    shutil.copyfile(engine_folder / ENGINE_FILE, tmp_path / ENGINE_FILE)
    write_info(tmp_path, replace(read_engine(engine_folder)[1], host_class="sparc64-vis"))
    with pytest.raises(DeviceError, match=r"\(exit code 1\): engine: was optimized for sparc64-vis") as caught:
        measure_footprint(tmp_path, repeats=2)
    assert caught.value.where == str(tmp_path)


def test_a_missing_engine_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=f"{INFO_FILE}: this file is missing"):
        measure_footprint(tmp_path, repeats=1)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("kill -9 $$", "killed by signal 9.*memory ran out"),
        ("echo odd >&2; echo last >&2; exit 3", "exit code 3.*last"),
    ],
)
def test_a_process_that_dies_is_told(
    engine_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(DeviceError, match=said):
        measure_footprint(engine_folder, repeats=1)


def test_a_python_that_cannot_be_started_is_told(
    engine_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with pytest.raises(DeviceError, match="could not be run"):
        measure_footprint(engine_folder, repeats=1)
