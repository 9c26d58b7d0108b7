"""Files and messages: writes whole or not at all, and errors that say where, what and what to do."""

from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices import errors
from devices.errors import EXIT_CODES, BundleError, DeviceError, EspalierError, StorageError
from devices.files import (
    canonical_json,
    digest_bytes,
    digest_file,
    digest_value,
    parse_toml_value,
    read_json,
    read_toml,
    storage_errors,
    write_atomic,
    write_json,
)

NOTHING_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_message_says_where_what_and_what_to_do() -> None:
    error = BundleError("a/b", "is damaged.", "Fetch it again.")
    assert str(error) == "a/b: is damaged. Fetch it again."
    assert str(BundleError("a/b", "is damaged")) == "a/b: is damaged."
    assert str(DeviceError("x", "is unknown", "Did you mean 'y'?")) == "x: is unknown. Did you mean 'y'?"


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_a_message_is_one_line_without_codes(where: str, what: str, fix: str) -> None:
    assert str(DeviceError(where, what, fix)).isprintable()


def test_an_error_survives_the_way_from_another_process() -> None:
    error = DeviceError("x", "is unknown", "Did you mean 'y'?")
    back = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(back) is DeviceError
    assert (str(back), back.where, back.what, back.fix) == (str(error), error.where, error.what, error.fix)


def test_every_error_has_an_exit_code_of_its_own_that_is_documented() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EspalierError)]
    codes = [kind.exit_code for kind in kinds if kind is not EspalierError]
    assert len(codes) == 7
    assert len(set(codes)) == len(codes)
    documented = [code for code, _ in EXIT_CODES]
    assert set(codes) < set(documented)
    assert len(set(documented)) == len(documented)


def test_digests_are_sha256_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert digest_bytes(b"") == digest_file(tmp_path / "empty") == NOTHING_SHA256
    (tmp_path / "long").write_bytes(b"ab" * (1 << 20))
    assert digest_file(tmp_path / "long") == digest_bytes(b"ab" * (1 << 20))


def test_one_value_has_one_text() -> None:
    assert canonical_json({"b": [1, 2.5], "a": "é"}) == '{"a":"é","b":[1,2.5]}'
    assert digest_value({"a": 1, "b": 2}) == digest_value({"b": 2, "a": 1}) != digest_value({"a": 1, "b": 3})
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": float("nan")})


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "file.json"
    write_json(path, {"old": True})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"deep: the disk is full\. Free some space"):
        write_json(path, {"new": True})
    assert json.loads(path.read_text()) == {"old": True}
    assert [found.name for found in path.parent.iterdir()] == ["file.json"]


def test_who_reads_meanwhile_goes_on_with_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old content")
    with open(path, "rb") as stream:
        write_atomic(path, b"new")
        assert stream.read() == b"old content"
    assert path.read_bytes() == b"new"


def test_a_place_that_takes_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "below", tmp_path / ("x" * 300) / "file"):
        with pytest.raises(StorageError, match="cannot write here") as caught:
            write_atomic(path, b"")
        assert caught.value.where == str(path.parent)
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "loop" / "file", Path("/proc/espalier/file")):
        with pytest.raises(StorageError, match="here") as caught:
            write_atomic(path, b"")
        assert caught.value.where == str(path.parent)
    (tmp_path / "loop").unlink()
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(StorageError, match="is a folder") as caught:
        write_atomic(tmp_path / "folder", b"")
    assert caught.value.where == str(tmp_path / "folder")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["file", "folder"]


def test_other_faults_of_the_system_are_not_dressed_up(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), storage_errors(tmp_path):
        (tmp_path / "none").read_bytes()


def test_json_takes_names_of_files_that_are_no_text(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"bundle": "bad\udcff/deploy"})
    assert read_json(tmp_path / "a.json", BundleError) == {"bundle": "bad\udcff/deploy"}


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000, b""])
def test_json_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(BundleError, match="cannot be read as JSON"):
        read_json(path, BundleError)
    with pytest.raises(BundleError, match=r"none\.json: this file is missing"):
        read_json(tmp_path / "none.json", BundleError)


def test_toml_that_is_none_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "file.toml"
    path.write_text("a = 1\nb = \n")
    with pytest.raises(DeviceError, match=r"file\.toml: is not valid TOML: .*line 2.*Mend that line"):
        read_toml(path, DeviceError)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.5", 0.5),
        ("[1, 2]", [1, 2]),
        ("true", True),
        ("'x'", "x"),
        ("plain text", "plain text"),
        ("pgd", "pgd"),
        ("", ""),
        ("1\nother = 2", "1\nother = 2"),
        ("9" * 5000, "9" * 5000),
        ("[" * 5000, "[" * 5000),
    ],
)
def test_a_value_of_the_command_line_is_toml_or_text(text: str, value: Any) -> None:
    assert parse_toml_value(text) == value


@given(st.text(max_size=20))
def test_any_text_is_a_value(text: str) -> None:
    parse_toml_value(text)
