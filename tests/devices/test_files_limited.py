"""What a reader of small files does not take: pipes, devices, holes, names that no file system takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from devices.errors import BundleError, RecipeError
from devices.files import read_json, read_limited, read_toml


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_limited(tmp_path / "file", 5) == b"12345"
    with pytest.raises(ValueError, match="larger than 4 bytes"):
        read_limited(tmp_path / "file", 4)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "holes", "name"])
def test_what_is_no_small_plain_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = {"device": Path("/dev/zero"), "name": tmp_path / "a\0b"}.get(kind, tmp_path / "file")
    if kind == "pipe":
        os.mkfifo(path)
    if kind == "folder":
        path.mkdir()
    if kind == "holes":
        with open(path, "wb") as stream:
            stream.truncate(1 << 40)
    with pytest.raises(RecipeError, match="cannot be read") as caught:
        read_toml(path, RecipeError)
    assert str(caught.value).isprintable()
    with pytest.raises(BundleError, match="cannot be read as JSON"):
        read_json(path, BundleError)
