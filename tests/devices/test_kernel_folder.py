"""The folder of compiled kernels: where it lies, who may use it, and which engines have one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import devices
from devices.detect import Host
from devices.engines import select, tensorrt
from devices.engines.base import EngineInfo
from devices.engines.kernel_folder import kernels_path
from devices.errors import StorageError


def test_each_engine_has_a_file_in_a_folder_of_this_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "kernels"
    first, second = kernels_path(folder, b"one"), kernels_path(folder, b"two")
    assert first.parent == second.parent == folder
    assert first != second
    assert kernels_path(folder, b"one") == first
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_written_or_trusted_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        kernels_path(tmp_path / "file" / "kernels", b"")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o770)
    with pytest.raises(StorageError, match=r"others may write to it.*0700"):
        kernels_path(shared, b"")
    shared.chmod(0o500)
    # For root, as in many containers, every folder is writable.
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(StorageError, match="is not writable"):
        kernels_path(shared, b"")


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt_rtx"])
def test_only_what_compiles_at_its_start_keeps_kernels(
    runtime: str, tmp_path: Path, engine_info: EngineInfo, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is opened here stands in for an engine on a GPU: it records what it was given."""
    given: list[Any] = []
    ready = SimpleNamespace(make_ready=lambda: given.append("ready"))

    def opened(content: bytes, info: EngineInfo, host: Host, cache: Path | None = None) -> Any:
        given.append(cache)
        return ready

    monkeypatch.setattr(tensorrt, "open_engine", opened)
    info = replace(engine_info, runtime=runtime)
    select.open_engine(b"engine", info, host)
    assert given == [None]
    select.open_engine(b"engine", info, host, tmp_path / "kernels")
    if runtime == "tensorrt":
        assert given == [None, None]
    else:
        assert given == [None, kernels_path(tmp_path / "kernels", b"engine"), "ready"]


def test_an_engine_that_is_not_compiled_at_its_start_leaves_the_folder_alone(deploy: Path, tmp_path: Path) -> None:
    devices.load(deploy, allow_unsigned=True, kernels=tmp_path / "kernels")
    assert not (tmp_path / "kernels").exists()
