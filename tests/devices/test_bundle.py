"""Bundles: what verifies opens, and every tampering is refused by the name of the file."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices import bundle as bundle_module
from devices.bundle import FORMAT, MANIFEST, Bundle, open_any, open_bundle, open_whole, write_manifest
from devices.errors import BundleError
from devices.files import digest_file
from devices.trust.envelope import SIGNATURE_FILE
from devices.trust.store import UNSIGNED, Trust, TrustedKey

FILES = ("engine/engine.json", "engine/engine.onnx", "labels.json", "model.onnx", "preprocess.json")


def refused(folder: Path, kind: str = "deploy", allow_unsigned: bool = True) -> BundleError:
    with pytest.raises(BundleError) as caught:
        open_bundle(folder, kind, Trust(allow_unsigned=allow_unsigned))
    assert str(caught.value).isprintable()
    assert caught.value.fix
    return caught.value


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest, as whoever tampers would."""
    path = folder / MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_a_bundle_opens_and_gives_the_bytes_that_were_verified(deploy: Path) -> None:
    bundle = open_bundle(deploy, "deploy", UNSIGNED)
    assert bundle.folder == deploy
    assert tuple(sorted(bundle.digests)) == FILES
    assert bundle.manifest["name"] == "rows"
    for name in FILES:
        assert bundle.read(name) == (deploy / name).read_bytes()
        assert bundle.digests[name] == digest_file(deploy / name)
    assert bundle.read_json("labels.json") == ["top", "middle", "bottom"]


def test_a_bundle_is_reached_through_a_link(deploy: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(deploy)
    assert open_bundle(tmp_path / "latest", "deploy", UNSIGNED).digests


def test_an_unsigned_bundle_needs_a_word(deploy: Path) -> None:
    error = refused(deploy, allow_unsigned=False)
    assert error.where == str(deploy)
    assert "not signed" in error.what
    assert "--allow-unsigned" in error.fix


@given(st.sampled_from(FILES), st.data())
def test_any_flipped_bit_is_found(deploy: Path, name: str, data: st.DataObject) -> None:
    path = deploy / name
    original = path.read_bytes()
    content = bytearray(original)
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    assert refused(deploy).where == str(path)
    path.write_bytes(original)
    open_bundle(deploy, "deploy", UNSIGNED)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_longer_shorter_or_gone_is_named(deploy: Path, name: str) -> None:
    path = deploy / name
    content = path.read_bytes()
    for other in (content + b"\0", content[:-1], b""):
        path.write_bytes(other)
        assert refused(deploy).where == str(path)
    path.unlink()
    error = refused(deploy)
    assert (error.where, error.what) == (str(path), "this file is missing")


@pytest.mark.parametrize(
    "name", ["extra.txt", ".git/x", ".gitignore", "engine/.hidden", "engine/deep/er/file", "manifest.json~"]
)
def test_a_file_that_is_not_listed_is_named(deploy: Path, name: str) -> None:
    path = deploy / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    error = refused(deploy)
    assert (error.where, error.what) == (str(path), "is not listed in the manifest")


def test_a_name_of_control_characters_is_told_without_them(deploy: Path) -> None:
    (deploy / "\x1b[2Jfake\nline").touch()
    (deploy / os.fsdecode(b"zz\xff")).touch()
    text = str(refused(deploy))
    assert r"\x1b[2Jfake line" in text
    (deploy / "\x1b[2Jfake\nline").unlink()
    assert r"zz\udcff" in str(refused(deploy))


@pytest.mark.parametrize("name", ["labels.json", "engine/engine.onnx"])
def test_a_linked_file_is_refused_whatever_it_points_to(deploy: Path, tmp_path: Path, name: str) -> None:
    path = deploy / name
    shutil.move(path, tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    error = refused(deploy)
    assert error.where == str(path)
    assert "link" in error.what


def test_a_linked_folder_is_refused_whatever_it_points_to(deploy: Path, tmp_path: Path) -> None:
    shutil.move(deploy / "engine", tmp_path / "elsewhere")
    (deploy / "engine").symlink_to(tmp_path / "elsewhere")
    error = refused(deploy)
    assert error.where == str(deploy / "engine")
    assert "link" in error.what


def test_a_linked_manifest_is_refused(deploy: Path, tmp_path: Path) -> None:
    shutil.move(deploy / MANIFEST, tmp_path / "elsewhere")
    (deploy / MANIFEST).symlink_to(tmp_path / "elsewhere")
    assert refused(deploy).where == str(deploy / MANIFEST)


def test_a_pipe_does_not_hang(deploy: Path) -> None:
    (deploy / "labels.json").unlink()
    os.mkfifo(deploy / "labels.json")
    error = refused(deploy)
    assert error.where == str(deploy / "labels.json")
    assert "plain file" in error.what


def test_a_folder_in_a_files_place_is_named(deploy: Path) -> None:
    (deploy / "labels.json").unlink()
    (deploy / "labels.json").mkdir()
    assert refused(deploy).where == str(deploy / "labels.json")


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
    found = _open(deploy)
    path.write_bytes(original)
    assert isinstance(found, BundleError) or found.digests == before


@pytest.mark.parametrize("kind", ["evidence", None, 3, ["deploy"], "x" * 10_000])
def test_a_bundle_of_another_kind_is_refused(deploy: Path, kind: Any) -> None:
    rewrite(deploy, lambda manifest: manifest.update(kind=kind))
    error = refused(deploy)
    assert error.where == str(deploy)
    assert "not 'deploy'" in error.what
    assert len(error.what) < 200


def test_a_bundle_of_another_format_is_refused(deploy: Path) -> None:
    rewrite(deploy, lambda manifest: manifest.update(format="espalier-bundle/2"))
    error = refused(deploy)
    assert error.where == str(deploy / MANIFEST)
    assert "espalier-bundle/2" in error.what


@pytest.mark.parametrize("name", ["none", "file", "a\0b"])
def test_what_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    assert "is not a folder" in refused(tmp_path / name).what
    for call in (lambda: open_any(tmp_path / name, UNSIGNED), lambda: open_whole(tmp_path / name)):
        with pytest.raises(BundleError, match="is not a folder"):
            call()


def test_of_any_kind_and_whole_are_verified_alike(deploy: Path) -> None:
    expected = open_bundle(deploy, "deploy", UNSIGNED)
    for found in (open_any(deploy, UNSIGNED), open_whole(deploy)):
        assert (found.digests, found.manifest) == (expected.digests, expected.manifest)
    (deploy / "labels.json").write_text("[]")
    for call in (lambda: open_any(deploy, UNSIGNED), lambda: open_whole(deploy)):
        with pytest.raises(BundleError, match="differs from the manifest"):
            call()


def test_unsigned_is_taken_when_said_whoever_else_is_trusted(deploy: Path) -> None:
    trust = Trust(keys=(TrustedKey(name="ours", pem="-"),), allow_unsigned=True)
    found = open_bundle(deploy, "deploy", trust)
    assert (found.signer, found.signed) == (None, False)
    (deploy / SIGNATURE_FILE).write_text("{}")
    # With nobody to trust it is not looked at; with somebody it must hold.
    assert open_bundle(deploy, "deploy", UNSIGNED).signed
    with pytest.raises(BundleError, match=SIGNATURE_FILE):
        open_bundle(deploy, "deploy", trust)


@pytest.mark.parametrize("name", [MANIFEST, SIGNATURE_FILE])
def test_what_cannot_list_itself_is_not_listed(deploy: Path, name: str) -> None:
    (deploy / SIGNATURE_FILE).write_text("{}")
    row = {"path": name, "size_bytes": 2, "sha256": digest_file(deploy / SIGNATURE_FILE)}
    rewrite(deploy, lambda manifest: manifest["files"].append(row))
    assert f"lists {name}, which cannot list itself" in refused(deploy).what


def test_a_folder_that_cannot_be_listed_is_named(deploy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def scandir(path: Any = ".") -> Any:
        if Path(os.fsdecode(path)).name == "engine":
            raise PermissionError(13, "Permission denied", os.fsdecode(path))
        return real(path)

    # Of the user root, who runs tests in containers, no folder is closed.
    monkeypatch.setattr(os, "scandir", scandir)
    error = refused(deploy)
    assert (error.where, error.what) == (str(deploy / "engine"), "cannot be listed (Permission denied)")


def test_a_file_that_grows_while_it_is_read_is_not_followed() -> None:
    found = bundle_module._digest(io.BytesIO(b"abc" + b"later"), 3)
    assert found == hashlib.sha256(b"abc").hexdigest()


def test_a_file_that_changes_after_verification_is_not_given_out(deploy: Path) -> None:
    bundle = open_bundle(deploy, "deploy", UNSIGNED)
    path = deploy / "labels.json"
    original = path.read_bytes()
    path.write_bytes(original.replace(b"top", b"pot"))
    with pytest.raises(BundleError, match="changed after it was verified") as caught:
        bundle.read("labels.json")
    assert caught.value.where == str(path)
    path.write_bytes(original)
    assert bundle.read("labels.json") == original


def test_a_link_that_appears_after_verification_is_not_followed(deploy: Path, tmp_path: Path) -> None:
    bundle = open_bundle(deploy, "deploy", UNSIGNED)
    shutil.copytree(deploy / "engine", tmp_path / "copy")
    shutil.rmtree(deploy / "engine")
    (deploy / "engine").symlink_to(tmp_path / "copy")
    with pytest.raises(BundleError, match="link"):
        bundle.read("engine/engine.onnx")
    shutil.rmtree(tmp_path / "copy")
    with pytest.raises(BundleError, match=r"engine\.onnx"):
        bundle.read("engine/engine.onnx")


@pytest.mark.parametrize("name", [MANIFEST, "none.json", "../secret", "/etc/passwd"])
def test_a_file_that_is_not_listed_is_not_read(deploy: Path, name: str) -> None:
    with pytest.raises(BundleError, match="is not in this bundle"):
        open_bundle(deploy, "deploy", UNSIGNED).read(name)


def test_a_listed_file_that_is_no_json_is_named(deploy: Path, seal: Callable[[Path], None]) -> None:
    for content in (b"{", b"\xff", b"[" * 100_000):
        (deploy / "labels.json").write_bytes(content)
        seal(deploy)
        with pytest.raises(BundleError, match=r"labels\.json: is not JSON"):
            open_bundle(deploy, "deploy", UNSIGNED).read_json("labels.json")


def test_writing_a_manifest_lists_all_and_its_own_keys_win(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "b").write_text("bb")
    (tmp_path / ".a").write_text("a")
    write_manifest(tmp_path, "evidence", {"name": "x", "files": [], "kind": "deploy"})
    bundle = open_bundle(tmp_path, "evidence", UNSIGNED)
    assert list(bundle.digests) == [".a", "deep/er/b"]
    assert bundle.manifest["name"] == "x"
    write_manifest(tmp_path, "evidence", {})
    assert list(open_bundle(tmp_path, "evidence", UNSIGNED).digests) == [".a", "deep/er/b"]


def test_writing_a_manifest_of_a_folder_with_a_linked_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to("/etc")
    with pytest.raises(BundleError, match="link"):
        write_manifest(tmp_path, "deploy", {})


def _open(folder: Path) -> Bundle | BundleError:
    try:
        return open_bundle(folder, "deploy", UNSIGNED)
    except BundleError as error:
        return error
