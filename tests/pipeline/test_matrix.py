"""`espalier matrix`: what is refused before any cell runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from devices.errors import RecipeError
from pipeline.cli import main

RECIPE = """
name = "{name}"
[model]
factory = "pipeline.zoo:mlp"
weights = "net.safetensors"
[data]
factory = "pipeline.datasets.digits:digits_parity"
"""


def test_cells_that_would_share_a_folder_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`a-b` on board `c` and `a` on board `b-c` are both `a-b-c`; no run is started."""
    for name in ("a-b", "a"):
        (tmp_path / f"{name}.toml").write_text(RECIPE.format(name=name))
    boards = "".join(f'[boards.{name}]\nhost = "{name}.invalid"\ndevice = "cpu"\n' for name in ("c", "b-c"))
    (tmp_path / "fleet.toml").write_text(boards)
    started: list[object] = []

    def start(*words: object, **options: object) -> None:
        started.append(words)
        raise RecipeError("run", "was started")

    monkeypatch.setattr(subprocess, "Popen", start)
    words = ["matrix", str(tmp_path / "a-b.toml"), str(tmp_path / "a.toml"), "--fleet", str(tmp_path / "fleet.toml")]
    assert main([*words, "--out", str(tmp_path / "runs")]) == RecipeError.exit_code
    assert "'a on b-c': would share the folder a-b-c with 'a-b on c'. Rename" in capsys.readouterr().err
    assert not started
    main([*words, "--out", str(tmp_path / "runs"), "--board", "c"])
    assert len(started) == 2
