"""Bundles: what verifies opens, and every tampering is refused by the name of the file."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices import bundle as bundle_module
from devices.bundle import MANIFEST, open_any, open_bundle, open_whole, write_manifest
from devices.errors import BundleError
from devices.files import digest_file
from devices.trust.envelope import SIGNATURE_FILE
from devices.trust.store import UNSIGNED, Trust, TrustedKey
from tests.devices.bundle_parts import FILES, refused, rewrite


def test_a_bundle_opens_and_gives_the_bytes_that_were_verified(deploy: Path) -> None:
    bundle = open_bundle(deploy, "deploy", UNSIGNED)
    assert bundle.folder == deploy
    assert tuple(sorted(bundle.digests)) == FILES
    assert bundle.manifest["name"] == "rows"
    for name in FILES:
        assert bundle.read(name) == (deploy / name).read_bytes()
        assert bundle.digests[name] == digest_file(deploy / name)
    assert bundle.read_json("labels.json") == ["top", "middle", "bottom"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="descriptors are counted in /proc")
def test_whatever_was_opened_is_closed(deploy: Path) -> None:
    """A gate that looks at many bundles in one process must not run out of descriptors."""
    before = len(os.listdir("/proc/self/fd"))
    bundle = open_bundle(deploy, "deploy", UNSIGNED)
    for name in FILES:
        bundle.read(name)
    (deploy / FILES[0]).unlink()
    refused(deploy)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_socket_in_a_files_place_is_not_called_a_link(deploy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(deploy)
    Path("labels.json").unlink()
    with socket.socket(socket.AF_UNIX) as taken:
        # Relative, as its path may have 107 characters at most.
        taken.bind("labels.json")
        error = refused(deploy)
    assert error.where == str(deploy / "labels.json")
    assert "cannot be read as a plain file" in error.what
    assert "link" not in error.what


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


def test_what_is_larger_than_memory_after_verification_is_not_read(deploy: Path) -> None:
    bundle, labels = open_bundle(deploy, "deploy", UNSIGNED), (deploy / "labels.json").read_bytes()
    for name in ("labels.json", MANIFEST):
        with open(deploy / name, "r+b") as stream:
            stream.truncate(1 << 40)
    with pytest.raises(BundleError, match="changed after it was verified"):
        bundle.read("labels.json")
    (deploy / "labels.json").write_bytes(labels)
    assert bundle.read("labels.json") == labels
    with pytest.raises(BundleError, match=r"manifest\.json: changed after it was verified"):
        bundle.copy_to(deploy.parent / "copy")


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
