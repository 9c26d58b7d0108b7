"""Signatures by a certificate: who vouches for it, when it counts, and how it is taken back."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from devices.trust.store import Trust, TrustedRoot
from devices.trust.verify import verify_signature
from tests.devices.trust.signers import Authority, make_authority, sign
from tests.devices.trust.verify_parts import DAY_S, refused


def trust_in(authority: Authority, *subjects: str, revocations: Path | None = None) -> Trust:
    root = TrustedRoot(
        name="house",
        roots_pem=authority.roots.read_text(),
        subjects=subjects,
        revocations_pem=revocations.read_text() if revocations else None,
    )
    return Trust(roots=(root,))


def by_certificate(folder: Path, authority: Authority, name: str = "release", **how: Any) -> bytes:
    key, certificate = authority.vouch(name, **how)
    return sign(folder, key, certificate).read_bytes()


def now_of() -> float:
    return time.time() + DAY_S


def test_a_certificate_counts_for_the_subjects_that_are_named(folder: Path, authority: Authority) -> None:
    content = by_certificate(folder, authority)
    found = verify_signature(content, "model.sig", trust_in(authority, "CN=release"), now_of())
    assert (found.signer.name, found.signer.kind) == ("house: CN=release", "certificate")
    assert set(found.digests) == {"engine/engine.onnx", "labels.json"}
    assert "not one of its subjects" in refused(content, trust_in(authority, "CN=other"), now_of())


def test_a_signature_holds_sixteen_certificates_at_most(folder: Path, authority: Authority) -> None:
    key, certificate = authority.vouch("release")
    for many in (16, 17):
        sign(folder, key, certificate, (authority.roots,) * (many - 1))
        content = (folder / "model.sig").read_bytes()
        if many == 16:
            assert verify_signature(content, "model.sig", trust_in(authority, "CN=release"), now_of()).digests
        else:
            assert "must be 1 to 16" in refused(content, trust_in(authority, "CN=release"), now_of())


def test_a_certificate_expires(folder: Path, authority: Authority) -> None:
    content = by_certificate(folder, authority, days=10)
    trust = trust_in(authority, "CN=release")
    assert verify_signature(content, "model.sig", trust, now_of()).signer.standing == "valid"
    assert "expired" in refused(content, trust, now_of() + 20 * DAY_S)
    assert "not yet valid" in refused(content, trust, now_of() - 20 * DAY_S)
    wrong = replace(trust, issued_s=now_of() - DAY_S)
    assert "unknown" in refused(content, wrong, 0.0)


def test_a_certificate_that_was_taken_back_counts_no_more(folder: Path, authority: Authority) -> None:
    content = by_certificate(folder, authority)
    clean = authority.take_back()
    trust = trust_in(authority, "CN=release", revocations=clean)
    assert verify_signature(content, "model.sig", trust, now_of())
    taken = authority.take_back(authority.folder / "release.pem")
    message = refused(content, trust_in(authority, "CN=release", revocations=taken), now_of())
    assert "revoked" in message


def test_a_revocation_list_that_is_out_of_date_does_not_blame_the_signer(folder: Path, authority: Authority) -> None:
    content = by_certificate(folder, authority, days=15)
    stale = trust_in(authority, "CN=release", revocations=authority.take_back(days=10))
    assert verify_signature(content, "model.sig", stale, now_of()).signer.standing == "valid"
    message = refused(content, stale, now_of() + 12 * DAY_S)
    assert "the revocation list of 'house' cannot tell whether that still counts (CRL has expired)" in message
    assert "`revocations`" in message
    # What the signer lacks itself is said of the signer, whatever the list.
    assert "which is expired on" in refused(content, stale, now_of() + 20 * DAY_S)
    assert "which is not yet valid on" in refused(content, stale, now_of() - 20 * DAY_S)
    assert "the clock says" in refused(content, replace(stale, issued_s=now_of() - DAY_S), 0.0)


@pytest.mark.parametrize("written", ["not a list", "root"])
def test_a_revocation_list_that_cannot_be_used_is_named(
    folder: Path, authority: Authority, tmp_path: Path, written: str
) -> None:
    content = by_certificate(folder, authority)
    path = tmp_path / "list.pem"
    path.write_text(authority.roots.read_text() if written == "root" else written)
    message = refused(content, trust_in(authority, "CN=release", revocations=path), now_of())
    assert "the revocation list of 'house' cannot tell" in message
    assert "no CRL in PEM" in message
    # That of another house says nothing of this one's.
    other = make_authority(tmp_path / "other").take_back()
    message = refused(content, trust_in(authority, "CN=release", revocations=other), now_of())
    assert "the revocation list of 'house' cannot tell" in message
    # Who is not trusted at all is not trusted, whatever the list.
    assert "not one of its subjects" in refused(content, trust_in(authority, "CN=other"), now_of())


def test_a_certificate_of_another_house_is_refused(folder: Path, authority: Authority, tmp_path: Path) -> None:
    other = make_authority(tmp_path / "other")
    content = by_certificate(folder, other)
    assert "not trusted" in refused(content, trust_in(authority, "CN=release"), now_of())
    assert "no root is trusted" in refused(content, Trust(), now_of())


def test_roots_of_the_system_do_not_vouch(
    folder: Path, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`openssl verify` looks for roots in the system's folder too, where anybody's may lie."""
    other = make_authority(tmp_path / "other", "elsewhere")
    content = by_certificate(folder, other)
    hashed = subprocess.run(
        ["openssl", "x509", "-in", other.roots, "-noout", "-hash"], check=True, capture_output=True, text=True
    )
    (tmp_path / "system").mkdir()
    shutil.copyfile(other.roots, tmp_path / "system" / f"{hashed.stdout.strip()}.0")
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "system"))
    monkeypatch.setenv("SSL_CERT_FILE", str(other.roots))
    assert "not trusted" in refused(content, trust_in(authority, "CN=release"), now_of())


def test_who_vouches_may_be_taken_back(folder: Path, authority: Authority, tmp_path: Path) -> None:
    """A certificate between the root and the signer counts no more once the root's list has it."""
    between = authority.below("between", tmp_path / "between")
    key, certificate = between.vouch("release")
    content = sign(folder, key, certificate, (between.roots,)).read_bytes()
    lists = tmp_path / "lists.pem"
    lists.write_text(authority.take_back().read_text() + between.take_back().read_text())
    trust = trust_in(authority, "CN=release", revocations=lists)
    assert verify_signature(content, "model.sig", trust, now_of()).signer.standing == "valid"
    taken = authority.take_back(authority.folder / "between.pem")
    lists.write_text(taken.read_text() + between.take_back().read_text())
    message = refused(content, trust_in(authority, "CN=release", revocations=lists), now_of())
    assert "revoked" in message


def test_a_certificate_that_is_not_for_signing_is_refused(folder: Path, authority: Authority) -> None:
    content = by_certificate(folder, authority, section="other")
    assert "not for signing" in refused(content, trust_in(authority, "CN=release"), now_of())


def test_a_certificate_with_the_signature_of_another_key_is_refused(
    folder: Path, authority: Authority, keys: Path
) -> None:
    ours = json.loads(by_certificate(folder, authority))
    theirs = json.loads(sign(folder, keys / "theirs.key").read_bytes())
    ours["dsseEnvelope"] = theirs["dsseEnvelope"]
    assert "not the signature" in refused(json.dumps(ours).encode(), trust_in(authority, "CN=release"), now_of())


@pytest.mark.parametrize("kind", ["RSA", "ED25519"])
def test_a_certificate_of_a_key_of_the_wrong_type_is_named(folder: Path, authority: Authority, kind: str) -> None:
    ours = json.loads(by_certificate(folder, authority))
    _, certificate = authority.vouch("other", algorithm=kind)
    der = "".join(line for line in certificate.read_text().splitlines() if not line.startswith("-----"))
    ours["verificationMaterial"]["x509CertificateChain"]["certificates"] = [{"rawBytes": der}]
    message = refused(json.dumps(ours).encode(), trust_in(authority, "CN=other"), now_of())
    assert f"is by a key of the wrong type ({kind})" in message
    assert "espalier keygen" in message
