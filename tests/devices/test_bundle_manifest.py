"""The manifest of a bundle: whatever is written in it, nothing outside is read and what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.bundle import FORMAT, MANIFEST, open_bundle
from devices.errors import BundleError
from devices.files import digest_file
from devices.trust.store import UNSIGNED
from tests.devices.bundle_parts import FILES, opened, refused, rewrite


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "engine/../../secret",
        "/etc/passwd",
        "//etc/passwd",
        "",
        ".",
        "..",
        "./labels.json",
        "engine//engine.onnx",
        "engine/",
        "labels.json\0",
        "engine/./engine.onnx",
    ],
)
def test_a_path_that_leaves_the_bundle_is_refused(deploy: Path, tmp_path: Path, path: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    row = {"path": path, "size_bytes": 6, "sha256": digest_file(secret)}
    rewrite(deploy, lambda manifest: manifest["files"].append(row))
    error = refused(deploy)
    assert error.where == f"{deploy / MANIFEST}: files[{len(FILES)}]"
    assert "not a path within the bundle" in error.what


@given(st.text(max_size=40))
def test_no_listed_path_reads_outside(deploy: Path, path: str) -> None:
    original = (deploy / MANIFEST).read_bytes()
    rewrite(deploy, lambda manifest: manifest["files"].append({"path": path, "size_bytes": 0, "sha256": "0" * 64}))
    error = refused(deploy)
    (deploy / MANIFEST).write_bytes(original)
    assert error.where.startswith(str(deploy))


@pytest.mark.parametrize(
    "row",
    [
        None,
        3,
        "labels.json",
        [],
        {},
        {"path": "labels.json"},
        {"path": 3, "size_bytes": 1, "sha256": ""},
        {"path": "a", "size_bytes": True, "sha256": ""},
        {"path": "a", "size_bytes": 1.0, "sha256": ""},
    ],
)
def test_a_malformed_entry_is_named(deploy: Path, row: Any) -> None:
    rewrite(deploy, lambda manifest: manifest["files"].insert(0, row))
    assert refused(deploy).where == f"{deploy / MANIFEST}: files[0]"


def test_another_digest_or_size_in_the_manifest_is_named_by_the_file(deploy: Path) -> None:
    original = (deploy / MANIFEST).read_bytes()
    for key, value in (("sha256", "0" * 64), ("size_bytes", 0), ("size_bytes", -1), ("size_bytes", 10**30)):
        rewrite(deploy, lambda manifest, key=key, value=value: manifest["files"][2].update({key: value}))  # type: ignore[misc]
        assert refused(deploy).where == str(deploy / FILES[2])
        (deploy / MANIFEST).write_bytes(original)


def test_a_file_dropped_from_the_manifest_is_named(deploy: Path) -> None:
    rewrite(deploy, lambda manifest: manifest["files"].pop(0))
    assert refused(deploy).where == str(deploy / FILES[0])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"\xff\xfe\x00",
        b"null",
        b"[]",
        b"{}",
        b'{"format": 3}',
        b"[" * 100_000,
        b'{"format": ' + b"[" * 900,
    ]
    + [json.dumps({"format": FORMAT, "kind": "deploy", "files": files}).encode() for files in ([], {}, None, 3)],
)
def test_a_manifest_that_is_none_is_named(deploy: Path, content: bytes) -> None:
    (deploy / MANIFEST).write_bytes(content)
    assert refused(deploy).where == str(deploy / MANIFEST)


def test_a_missing_manifest_is_named(deploy: Path) -> None:
    (deploy / MANIFEST).unlink()
    error = refused(deploy)
    assert (error.where, error.what) == (str(deploy / MANIFEST), "this file is missing")


def test_a_huge_manifest_is_not_read(deploy: Path) -> None:
    with open(deploy / MANIFEST, "r+b") as stream:
        stream.truncate(1 << 40)
    error = refused(deploy)
    assert error.where == str(deploy / MANIFEST)
    assert "larger than" in error.what
    # Up to 16 MiB, what it holds is the matter.
    for size_bytes, said in ((16 << 20, "is not JSON"), ((16 << 20) + 1, "larger than 16777216 bytes")):
        with open(deploy / MANIFEST, "r+b") as stream:
            stream.truncate(size_bytes)
        assert said in refused(deploy).what


@given(st.data())
def test_a_damaged_manifest_is_refused_or_lists_the_same_files(deploy: Path, data: st.DataObject) -> None:
    path = deploy / MANIFEST
    original = path.read_bytes()
    before = open_bundle(deploy, "deploy", UNSIGNED).digests
    content = bytearray(original)
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    found = opened(deploy)
    path.write_bytes(original)
    assert isinstance(found, BundleError) or found.digests == before


@pytest.mark.parametrize("kind", ["evidence", None, 3, ["deploy"], "x" * 10_000])
def test_a_bundle_of_another_kind_is_refused(deploy: Path, kind: Any) -> None:
    rewrite(deploy, lambda manifest: manifest.update(kind=kind))
    error = refused(deploy)
    assert error.where == str(deploy)
    assert "not 'deploy'" in error.what
    assert len(error.what) < 200


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("espalier-bundle/2", "has format 'espalier-bundle/2',"),
        (None, "has format None,"),
        ([2], "has format of type list,"),
    ],
)
def test_a_bundle_of_another_format_is_refused(deploy: Path, other: object, said: str) -> None:
    rewrite(deploy, lambda manifest: manifest.update(format=other))
    error = refused(deploy)
    assert error.where == str(deploy / MANIFEST)
    assert said in error.what
