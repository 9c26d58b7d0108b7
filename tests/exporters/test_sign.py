"""Bundles are signed whole, by OpenSSF model-signing, and verify with the devices' own reader and with its command."""

from __future__ import annotations

import stat
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from devices.bundle import MANIFEST, open_any, open_bundle, write_manifest
from devices.errors import BundleError, StorageError
from devices.files import digest_file
from devices.trust.envelope import SIGNATURE_FILE
from devices.trust.store import Trust, read_trust, trust_in_key
from exporters.keys import make_key
from exporters.sign import SignConfig, sign_bundle
from tests.devices.trust.signers import make_authority, make_other_key
from tests.devices.trust.signers import make_key as make_signing_key

LAST = date(2099, 1, 1)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "engine").mkdir(parents=True)
    (folder / "engine" / "engine.onnx").write_bytes(b"weights")
    (folder / "labels.json").write_text('["a"]')
    write_manifest(folder, "deploy", {"name": "mine"})
    return folder


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_key(tmp_path / "keys", "release", None, LAST)
    return tmp_path / "keys" / "release.key"


def trusted(key: Path) -> Trust:
    return trust_in_key(key.with_suffix(".pub"))


def test_a_signed_bundle_opens_for_who_trusts_the_signer(bundle: Path, key: Path) -> None:
    assert sign_bundle(bundle, SignConfig(private_key=key)) == "deploy"
    opened = open_bundle(bundle, "deploy", trusted(key))
    assert opened.signer is not None
    assert opened.signer.name == "release.pub"
    assert opened.manifest_digest == digest_file(bundle / MANIFEST)
    assert opened.read("labels.json") == b'["a"]'
    with pytest.raises(BundleError, match="who is trusted"):
        open_bundle(bundle, "deploy", Trust())


def test_the_file_of_trust_that_comes_with_a_key_works(bundle: Path, key: Path) -> None:
    sign_bundle(bundle, SignConfig(private_key=key))
    found = open_any(bundle, read_trust(key.with_name("release.trust.toml")))
    assert found.signer is not None
    assert (found.signer.name, found.signer.standing) == ("release", "valid")


def test_model_signing_itself_verifies_it(bundle: Path, key: Path) -> None:
    sign_bundle(bundle, SignConfig(private_key=key))
    words = ["verify", "key", str(bundle), "--signature", str(bundle / "model.sig")]
    words += ["--public_key", str(key.with_suffix(".pub"))]
    done = subprocess.run([sys.executable, "-m", "model_signing", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (bundle / "labels.json").write_text('["b"]')
    done = subprocess.run([sys.executable, "-m", "model_signing", *words], capture_output=True, text=True, check=False)
    assert done.returncode != 0


def test_an_encrypted_key_needs_its_password(bundle: Path, tmp_path: Path) -> None:
    make_key(tmp_path / "keys", "locked", "secret", LAST)
    locked = tmp_path / "keys" / "locked.key"
    with pytest.raises(BundleError, match="was not signed"):
        sign_bundle(bundle, SignConfig(private_key=locked, password="wrong"))
    with pytest.raises(BundleError, match="was not signed"):
        sign_bundle(bundle, SignConfig(private_key=locked))
    assert not (bundle / "model.sig").exists()
    sign_bundle(bundle, SignConfig(private_key=locked, password="secret"))
    assert open_bundle(bundle, "deploy", trusted(locked)).signer


def test_a_certificate_signs_too(bundle: Path, tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "house")
    key, certificate = authority.vouch("release")
    sign_bundle(bundle, SignConfig(private_key=key, certificate=certificate))
    text = 'issued = 2026-01-01\n[[certificates]]\nname = "house"\nroots = "root.pem"\nsubjects = ["CN=release"]\n'
    (authority.folder / "trust.toml").write_text(text)
    opened = open_bundle(bundle, "deploy", read_trust(authority.folder / "trust.toml"))
    assert opened.signer is not None
    assert opened.signer.kind == "certificate"


@pytest.mark.parametrize(
    ("first", "last", "standing"),
    [
        ("20200101000000Z", "20210101000000Z", "has expired: it counts from 2020-01-01 00:00 UTC to 2021-01-01"),
        ("20980101000000Z", "20990101000000Z", "is not yet valid: it counts from 2098-01-01 00:00 UTC to 2099-01-01"),
    ],
)
def test_a_certificate_that_does_not_count_now_signs_nothing(
    bundle: Path, tmp_path: Path, first: str, last: str, standing: str
) -> None:
    authority = make_authority(tmp_path / "house")
    key, certificate = authority.vouch_between("release", first, last)
    with pytest.raises(BundleError) as caught:
        sign_bundle(bundle, SignConfig(private_key=key, certificate=certificate))
    assert caught.value.where == str(certificate)
    assert standing in caught.value.what
    assert "new one" in caught.value.fix
    assert not (bundle / SIGNATURE_FILE).exists()


@pytest.mark.parametrize("together", [False, True])
def test_nor_does_one_that_stands_between_it_and_the_root(bundle: Path, tmp_path: Path, together: bool) -> None:
    """In a file of its own, or behind another in one file."""
    house = make_authority(tmp_path / "house")
    key, certificate = house.below("branch", tmp_path / "branch").vouch("release")
    branch = house.folder / "branch.pem"
    _, old = house.vouch_between("old", "20200101000000Z", "20210101000000Z")
    if together:
        old.write_bytes(branch.read_bytes() + old.read_bytes())
    sign_bundle(bundle, SignConfig(private_key=key, certificate=certificate, chain=(branch,)))
    (bundle / SIGNATURE_FILE).unlink()
    with pytest.raises(BundleError) as caught:
        sign_bundle(bundle, SignConfig(private_key=key, certificate=certificate, chain=(branch, old)))
    assert (caught.value.where, caught.value.what[:11]) == (str(old), "has expired")
    assert not (bundle / SIGNATURE_FILE).exists()


def test_what_is_no_certificate_is_named(bundle: Path, key: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"release\.pub: is no certificate in PEM"):
        sign_bundle(bundle, SignConfig(private_key=key, certificate=key.with_suffix(".pub")))
    with pytest.raises(BundleError, match=r"gone\.pem: cannot be read"):
        sign_bundle(bundle, SignConfig(private_key=key, certificate=tmp_path / "gone.pem"))
    authority = make_authority(tmp_path / "house")
    with pytest.raises(BundleError, match=r"release\.pub: is no certificate in PEM\. Give a certificate between"):
        sign_bundle(bundle, SignConfig(private_key=key, certificate=authority.roots, chain=(key.with_suffix(".pub"),)))


def test_signing_again_replaces_the_signature(bundle: Path, key: Path, tmp_path: Path) -> None:
    sign_bundle(bundle, SignConfig(private_key=key))
    make_key(tmp_path / "keys", "next", None, LAST)
    sign_bundle(bundle, SignConfig(private_key=tmp_path / "keys" / "next.key"))
    assert open_bundle(bundle, "deploy", trusted(tmp_path / "keys" / "next.key"))
    with pytest.raises(BundleError, match="not trusted"):
        open_bundle(bundle, "deploy", trusted(key))


def test_folders_whose_names_begin_alike_are_signed_too(bundle: Path, key: Path) -> None:
    """By path `scan/` comes before `scan-int8/`, by letter behind it."""
    for name in ("scan", "scan-int8"):
        (bundle / name).mkdir()
        (bundle / name / "findings.json").write_text(f'["{name}"]')
    write_manifest(bundle, "deploy", {"name": "mine"})
    sign_bundle(bundle, SignConfig(private_key=key))
    assert open_bundle(bundle, "deploy", trusted(key)).signer is not None


@pytest.mark.parametrize("inside", [False, True])
def test_signing_again_works_by_a_relative_path(
    bundle: Path, key: Path, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    """Also from within the bundle, and its files are the same ones afterwards."""
    monkeypatch.chdir(bundle if inside else bundle.parent)
    before = sorted(path.name for path in bundle.rglob("*"))
    for _ in range(2):
        sign_bundle(Path("." if inside else bundle.name), SignConfig(private_key=key))
    assert open_bundle(bundle, "deploy", trusted(key)).signer is not None
    assert sorted(path.name for path in bundle.rglob("*")) == sorted([*before, SIGNATURE_FILE])


def test_without_a_temporary_folder_it_says_so(bundle: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(bundle / "none"))
    with pytest.raises(StorageError, match="TMPDIR: no temporary folder"):
        sign_bundle(bundle, SignConfig(private_key=key))
    monkeypatch.setattr(tempfile, "tempdir", None)
    sign_bundle(bundle, SignConfig(private_key=key))
    trust = trusted(key)
    monkeypatch.setattr(tempfile, "tempdir", str(bundle / "none"))
    with pytest.raises(StorageError, match="TMPDIR: no temporary folder"):
        open_bundle(bundle, "deploy", trust)


@pytest.mark.parametrize("name", ["", 'a"b', "new\\name", "a\nb", "a\x1b[2J"])
def test_a_name_that_would_break_the_file_of_trust_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="is no name for a key"):
        make_key(tmp_path, name, None, LAST)
    assert not list(tmp_path.iterdir())


def test_a_damaged_bundle_is_not_signed(bundle: Path, key: Path) -> None:
    (bundle / "labels.json").write_text('["b"]')
    with pytest.raises(BundleError, match=r"labels\.json"):
        sign_bundle(bundle, SignConfig(private_key=key))
    assert not (bundle / "model.sig").exists()


def test_files_that_model_signing_would_leave_out_are_not_signed_away(bundle: Path, key: Path) -> None:
    (bundle / ".gitattributes").write_text("x")
    write_manifest(bundle, "deploy", {})
    with pytest.raises(BundleError, match=r"\.gitattributes"):
        sign_bundle(bundle, SignConfig(private_key=key))


def test_a_file_beside_what_was_signed_is_refused(bundle: Path, key: Path) -> None:
    sign_bundle(bundle, SignConfig(private_key=key))
    (bundle / ".git").mkdir()
    (bundle / ".git" / "hook").write_text("x")
    with pytest.raises(BundleError, match="not listed"):
        open_bundle(bundle, "deploy", trusted(key))


def test_a_manifest_made_anew_does_not_pass(bundle: Path, key: Path) -> None:
    sign_bundle(bundle, SignConfig(private_key=key))
    (bundle / "labels.json").write_text('["b"]')
    write_manifest(bundle, "deploy", {"name": "mine"})
    with pytest.raises(BundleError, match="not the one that was signed"):
        open_bundle(bundle, "deploy", trusted(key))


def test_a_signature_that_is_checked_must_hold_even_where_none_is_needed(bundle: Path, key: Path) -> None:
    sign_bundle(bundle, SignConfig(private_key=key))
    content = (bundle / "model.sig").read_bytes()
    (bundle / "model.sig").write_bytes(content.replace(b'"sig":"M', b'"sig":"N'))
    with pytest.raises(BundleError, match="not the signature"):
        open_bundle(bundle, "deploy", replace(trusted(key), allow_unsigned=True))


@pytest.mark.parametrize("config", [SignConfig(), SignConfig(private_key=Path("a"), keyless=True)])
def test_one_signer_is_wanted(bundle: Path, config: SignConfig) -> None:
    with pytest.raises(BundleError, match="must be one"):
        sign_bundle(bundle, config)


@pytest.mark.parametrize("name", ["gone.key", "release.pub"])
def test_what_is_no_private_key_is_named(bundle: Path, key: Path, name: str) -> None:
    with pytest.raises(BundleError, match=name):
        sign_bundle(bundle, SignConfig(private_key=key.with_name(name)))


@pytest.mark.parametrize(("algorithm", "kind"), [("RSA", "RSA"), ("ED25519", "Ed25519")])
def test_a_key_of_the_wrong_type_is_named(bundle: Path, tmp_path: Path, algorithm: str, kind: str) -> None:
    key = make_other_key(tmp_path, algorithm)
    with pytest.raises(BundleError) as caught:
        sign_bundle(bundle, SignConfig(private_key=key))
    assert caught.value.where == str(key)
    assert f"wrong type ({kind})" in caught.value.what
    assert "espalier keygen" in caught.value.fix
    assert not (bundle / "model.sig").exists()


@pytest.mark.parametrize("curve", ["secp384r1", "secp521r1"])
def test_longer_curves_sign_and_verify(bundle: Path, tmp_path: Path, curve: str) -> None:
    key = make_signing_key(tmp_path, curve, curve)
    sign_bundle(bundle, SignConfig(private_key=key))
    assert open_bundle(bundle, "deploy", trusted(key)).signer


def test_a_key_of_openssh_is_no_key_in_pem(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "id").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n")
    with pytest.raises(BundleError, match="no private key in PEM"):
        sign_bundle(bundle, SignConfig(private_key=tmp_path / "id"))


def test_a_key_is_its_owners_alone_and_is_not_written_over(tmp_path: Path) -> None:
    make_key(tmp_path, "release", None, LAST)
    path = tmp_path / "release.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    with pytest.raises(BundleError, match="already"):
        make_key(tmp_path, "release", None, LAST)
    assert path.read_bytes() == before
