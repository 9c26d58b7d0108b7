"""One finished run of the digits recipe for all pages, and a copy of it for each."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.docs.workspace import make_workspace, run_script


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which `make run` was done. Read only."""
    folder = tmp_path_factory.mktemp("docs") / "finished"
    folder.mkdir()
    make_workspace(folder)
    done = run_script("make run", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def workspace(finished: Path, tmp_path: Path) -> Path:
    """A copy of it to work in, under a name of its own."""
    folder = tmp_path / "espalier"
    shutil.copytree(finished, folder, symlinks=True)
    return folder
