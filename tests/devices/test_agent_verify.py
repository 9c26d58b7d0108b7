"""A bundle is verified where it lies, and one from an archive is in its place only when it verifies."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from devices.agent import main
from devices.agent_verify import unpack_bundle, verify_bundle
from devices.bundle import open_bundle, write_manifest
from devices.errors import BundleError, StorageError
from devices.trust.store import UNSIGNED, Trust, TrustedKey
from exporters.archive import write_archive
from exporters.keys import make_key
from exporters.sign import SignConfig, sign_bundle


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Of an unsigned bundle."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "labels.json").write_text("[]")
    write_manifest(folder, "deploy", {"name": "small"})
    write_archive(folder, tmp_path / "small-1.0.tar.gz", "small-1.0")
    return tmp_path / "small-1.0.tar.gz"


@pytest.fixture
def key(tmp_path: Path) -> TrustedKey:
    return make_key(tmp_path / "keys", "k", None, date(2099, 1, 1))


def left(tmp_path: Path) -> set[str]:
    return {path.name for path in tmp_path.iterdir()} - {"bundle", "small-1.0.tar.gz", "keys"}


def test_a_signed_archive_is_unpacked(archive: Path, key: TrustedKey, tmp_path: Path) -> None:
    sign_bundle(tmp_path / "bundle", SignConfig(private_key=tmp_path / "keys" / "k.key"))
    write_archive(tmp_path / "bundle", archive, "small-1.0")
    found = unpack_bundle(archive, tmp_path / "here" / "small", Trust(keys=(key,)))
    place = str(tmp_path / "here" / "small")
    told = f"whole  {place} (deploy, 1 files), signed by k (key {key.key_id})"
    assert found == {"folder": place, "kind": "deploy", "files": 1, "signer": "k", "told": told}
    assert verify_bundle(tmp_path / "here" / "small", Trust(keys=(key,))) == found
    assert open_bundle(tmp_path / "here" / "small", "deploy", Trust(keys=(key,))).digests.keys() == {"labels.json"}
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["small"]


def test_what_does_not_verify_is_not_put_in_place(archive: Path, key: TrustedKey, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not signed"):
        unpack_bundle(archive, tmp_path / "small", Trust(keys=(key,)))
    (tmp_path / "bundle" / "labels.json").write_text('["changed"]')
    write_archive(tmp_path / "bundle", archive, "small-1.0")
    with pytest.raises(BundleError, match="differs from the manifest"):
        unpack_bundle(archive, tmp_path / "small", UNSIGNED)
    archive.write_bytes(archive.read_bytes()[:-20])
    with pytest.raises(BundleError, match="is no whole archive"):
        unpack_bundle(archive, tmp_path / "small", UNSIGNED)
    assert left(tmp_path) == set()


def test_a_folder_that_is_there_is_left_alone(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    with pytest.raises(StorageError, match="is there already"):
        unpack_bundle(archive, tmp_path / "small", UNSIGNED)
    (tmp_path / "small").rmdir()
    (tmp_path / "small").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="is there already"):
        unpack_bundle(archive, tmp_path / "small", UNSIGNED)
    assert left(tmp_path) == {"small"}


def test_the_command(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["unpack", str(archive), str(tmp_path / "small"), "--allow-unsigned"]) == 0
    assert capsys.readouterr().out.strip() == f"whole  {tmp_path / 'small'} (deploy, 1 files), not signed"
    assert main(["unpack", str(archive), str(tmp_path / "other")]) == 7
    assert "is not signed" in capsys.readouterr().err
    assert main(["unpack", str(archive), str(tmp_path / "third"), "--allow-unsigned", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "deploy"


def test_a_bundle_is_verified_where_it_lies(
    archive: Path, key: TrustedKey, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, trusted = str(tmp_path / "bundle"), ("--key", str(tmp_path / "keys" / "k.pub"))
    assert main(["verify", bundle]) == 7
    assert "is not signed" in capsys.readouterr().err
    sign_bundle(tmp_path / "bundle", SignConfig(private_key=tmp_path / "keys" / "k.key"))
    assert main(["verify", bundle, *trusted]) == 0
    said = f"whole  {bundle} (deploy, 1 files), signed by k.pub (key {key.key_id})"
    assert capsys.readouterr().out.strip() == said
    assert main(["verify", bundle, "--allow-unsigned"]) == 0
    assert capsys.readouterr().out.strip().endswith("its signature was not looked at")
    (tmp_path / "bundle" / "more").touch()
    assert main(["verify", bundle, *trusted]) == 7
    assert "more" in capsys.readouterr().err
    assert main(["verify", str(archive), *trusted]) == 7
    assert str(archive) in capsys.readouterr().err
