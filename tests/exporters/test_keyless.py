"""Keyless signatures: who signed what is checked by Sigstore's own library, against a Sigstore of the tests' own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from sigstore.models import ClientTrustConfig

from devices.bundle import MANIFEST, write_manifest
from devices.errors import BundleError
from devices.files import digest_file
from devices.trust.envelope import SIGNATURE_FILE, read_envelope
from exporters.keyless import verify_keyless
from exporters.sign import SignConfig, sign_bundle
from pipeline.cli import main
from tests.devices.trust.signers import make_key
from tests.exporters.sigstore_parts import Sigstore

ME, ISSUER = "me@example.org", "https://accounts.example.org"


@pytest.fixture(scope="module")
def sigstore() -> Sigstore:
    return Sigstore()


@pytest.fixture
def bundle(tmp_path: Path, sigstore: Sigstore, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle that `ME` signed."""
    root = SimpleNamespace(trusted_root=sigstore.trusted_root(tmp_path))
    # The one thing that is replaced: it asks Sigstore's servers whom to trust. All checks are the library's own.
    monkeypatch.setattr(ClientTrustConfig, "production", lambda: root)
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "labels.json").write_text('["a"]')
    write_manifest(folder, "deploy", {"name": "mine"})
    signed_keyless(folder, sigstore)
    return folder


def signed_keyless(folder: Path, sigstore: Sigstore) -> None:
    """Sign what model-signing states of the bundle, with a key first, and then as `ME`."""
    sign_bundle(folder, SignConfig(private_key=make_key(folder.parent, "any")))
    place = folder / SIGNATURE_FILE
    place.write_bytes(sigstore.sign(read_envelope(place.read_bytes(), "").payload, ME, ISSUER))


def refusal(folder: Path, identity: str = ME, issuer: str = ISSUER) -> str:
    with pytest.raises(BundleError) as caught:
        verify_keyless(folder, identity, issuer)
    return str(caught.value)


def test_who_signed_all_files_of_a_bundle_is_told(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = verify_keyless(bundle, ME, ISSUER)
    assert found.read("labels.json") == b'["a"]'
    assert found.manifest_digest == digest_file(bundle / MANIFEST)
    assert main(["verify", str(bundle), "--identity", ME, "--issuer", ISSUER]) == 0
    assert f"signed by {ME} (keyless, {ISSUER})" in capsys.readouterr().out


def test_a_changed_file_is_refused_with_its_manifest_made_anew_too(bundle: Path) -> None:
    (bundle / "labels.json").write_text('["b"]')
    told = refusal(bundle)
    assert "Hash mismatch" in told
    assert "labels.json" in told
    write_manifest(bundle, "deploy", {"name": "mine"})
    assert "Hash mismatch" in refusal(bundle)


def test_a_file_beside_what_was_signed_is_refused(bundle: Path) -> None:
    (bundle / "more.json").write_text("[]")
    assert "Extra files" in refusal(bundle)
    (bundle / "more.json").unlink()
    # Of names like this one the library asks nothing.
    (bundle / ".gitignore").write_text("x")
    assert "not listed" in refusal(bundle)


def test_a_statement_that_passes_files_over_is_not_one_of_the_bundle(bundle: Path, sigstore: Sigstore) -> None:
    """The library asks nothing of a file that the statement itself says to ignore: it could be changed at will."""
    place = bundle / SIGNATURE_FILE
    statement = json.loads(read_envelope(place.read_bytes(), "").payload)
    predicate = statement["predicate"]
    (kept,) = (row for row in predicate["resources"] if row["name"] == MANIFEST)
    predicate["resources"] = [kept]
    predicate["serialization"]["ignore_paths"].append("labels.json")
    statement["subject"][0]["digest"]["sha256"] = hashlib.sha256(bytes.fromhex(kept["digest"])).hexdigest()
    place.write_bytes(sigstore.sign(json.dumps(statement).encode(), ME, ISSUER))
    assert "is signed for other files than its manifest lists" in refusal(bundle)


@pytest.mark.parametrize(
    ("identity", "issuer", "told"),
    [("you@example.org", ISSUER, "SANs do not match you@example.org"), (ME, "https://other.org", "https://other.org")],
)
def test_another_signer_or_issuer_is_refused(bundle: Path, identity: str, issuer: str, told: str) -> None:
    assert told in refusal(bundle, identity, issuer)


def test_another_sigstore_vouches_for_nobody(bundle: Path) -> None:
    signed_keyless(bundle, Sigstore())
    assert "certificate chain" in refusal(bundle)


def test_a_signature_of_something_else_is_refused(bundle: Path) -> None:
    place = bundle / SIGNATURE_FILE
    raw = json.loads(place.read_bytes())
    raw["dsseEnvelope"]["signatures"][0]["sig"] = raw["dsseEnvelope"]["payload"]
    place.write_text(json.dumps(raw))
    assert "DSSE: invalid signature" in refusal(bundle)
