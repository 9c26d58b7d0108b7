"""TensorRT's timing cache on disk: several builds at once lose nothing of each other's."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from devices.engines.timing_cache import attach, cache_path, keep
from devices.errors import StorageError


class _Times:
    """Stands for an `ITimingCache`: a set of names, as JSON."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def combine(self, other: _Times, _: bool) -> bool:
        self.names |= other.names
        return True

    def serialize(self) -> bytes:
        return json.dumps(sorted(self.names)).encode()


class _Config:
    """Stands for an `IBuilderConfig`, of which only the cache is used; `fits` says whether kept times are taken."""

    def __init__(self, fits: bool = True) -> None:
        self.fits = fits
        self.cache: _Times | None = None

    def create_timing_cache(self, content: bytes) -> _Times | None:
        return _Times(set(json.loads(content))) if content else _Times(set())

    def set_timing_cache(self, cache: _Times, _: bool) -> bool:
        if cache.names and not self.fits:
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> _Times | None:
        return self.cache


def _one_build(path: Path, name: str) -> None:
    config = _Config()
    times: Any = attach(config, path)
    times.names.add(name)
    keep(config, path)


def test_builds_at_once_keep_all_times(tmp_path: Path) -> None:
    path = cache_path(tmp_path, "10.3.0", "8.7")
    context = multiprocessing.get_context("fork")
    builds = [context.Process(target=_one_build, args=(path, f"kernel-{index}")) for index in range(8)]
    for build in builds:
        build.start()
    for build in builds:
        build.join()
    assert json.loads(path.read_bytes()) == [f"kernel-{index}" for index in range(8)]


def test_times_that_do_not_fit_are_left_out(tmp_path: Path) -> None:
    path = cache_path(tmp_path, "10.3.0", "8.7")
    _one_build(path, "old")
    config = _Config(fits=False)
    assert attach(config, path).names == set()
    assert config.cache is not None


def test_each_version_and_gpu_has_its_file(tmp_path: Path) -> None:
    assert len({cache_path(tmp_path, *key) for key in (("10.3.0", "8.7"), ("10.3.0", "8.9"), ("8.6.1", "8.7"))}) == 3
    assert cache_path(tmp_path, "8.6.1+a/../b", "").parent == tmp_path


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        attach(_Config(), tmp_path / "file" / "t.cache")
    link = tmp_path / "t.lock"
    os.symlink(tmp_path / "elsewhere", link)
    with pytest.raises(StorageError, match="symbolic"):
        attach(_Config(), tmp_path / "t.cache")
