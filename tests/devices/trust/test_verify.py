"""Signatures of OpenSSF model-signing, checked with the standard library and `openssl` alone."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from devices.errors import BundleError
from devices.files import digest_file
from devices.trust.clock import Lifetime
from devices.trust.envelope import PREDICATE_TYPE, STATEMENT_TYPE, resources_of
from devices.trust.store import Trust, TrustedRoot, trust_in_key
from devices.trust.verify import verify_signature
from tests.devices.trust.signers import Authority, make_authority, sign

NOW_S = 1_800_000_000.0
DAY_S = 86_400.0


def refused(content: bytes, trust: Trust, now_s: float = NOW_S) -> str:
    with pytest.raises(BundleError) as caught:
        verify_signature(content, "model.sig", trust, now_s)
    assert caught.value.where.startswith("model.sig")
    assert caught.value.fix
    assert str(caught.value).isprintable()
    return str(caught.value)


def lasting(keys: Path, **lifetime: float) -> Trust:
    """Trust in `ours`, for so long."""
    (key,) = trust_in_key(keys / "ours.pub").keys
    return Trust(keys=(replace(key, lifetime=Lifetime(**lifetime)),), issued_s=NOW_S - 100 * DAY_S)


@pytest.mark.parametrize("name", ["ours", "long"])
def test_a_signature_by_a_trusted_key_counts_and_says_what_it_stands_for(folder: Path, keys: Path, name: str) -> None:
    content = sign(folder, keys / f"{name}.key").read_bytes()
    found = verify_signature(content, "model.sig", trust_in_key(keys / f"{name}.pub"), NOW_S)
    assert (found.signer.name, found.signer.kind, found.signer.standing) == (f"{name}.pub", "key", "valid")
    assert found.digests == {path: digest_file(folder / path) for path in ("engine/engine.onnx", "labels.json")}


def test_another_signer_is_refused_by_name(folder: Path, keys: Path) -> None:
    content = sign(folder, keys / "theirs.key").read_bytes()
    message = refused(content, trust_in_key(keys / "ours.pub"))
    assert "not trusted" in message
    assert "ours.pub" in message


def test_a_hint_at_our_key_does_not_make_it_our_signature(folder: Path, keys: Path) -> None:
    ours = trust_in_key(keys / "ours.pub")
    content = json.loads(sign(folder, keys / "theirs.key").read_bytes())
    content["verificationMaterial"]["publicKey"]["hint"] = ours.keys[0].key_id
    assert "not the signature" in refused(json.dumps(content).encode(), ours)


def test_every_byte_of_what_was_signed_counts(folder: Path, keys: Path) -> None:
    content = json.loads(sign(folder, keys / "ours.key").read_bytes())
    payload = base64.b64decode(content["dsseEnvelope"]["payload"])
    for position in range(0, len(payload), 97):
        changed = bytearray(payload)
        changed[position] ^= 1
        content["dsseEnvelope"]["payload"] = base64.b64encode(bytes(changed)).decode()
        assert "not the signature" in refused(json.dumps(content).encode(), trust_in_key(keys / "ours.pub"))


def _with_certificates(entries: list[Any]) -> Callable[[Any], None]:
    def change(raw: Any) -> None:
        raw["verificationMaterial"] = {"x509CertificateChain": {"certificates": entries}}

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw.update(mediaType="application/json"), "is no application/vnd"),
        (lambda raw: raw.pop("dsseEnvelope"), "lacks"),
        (lambda raw: raw["dsseEnvelope"].update(payloadType="text/plain"), "payloadType"),
        (lambda raw: raw["dsseEnvelope"].update(payload="***"), "base64"),
        (lambda raw: raw["dsseEnvelope"]["signatures"].append({}), "must be one"),
        (lambda raw: raw["dsseEnvelope"].update(signatures=[]), "must be one"),
        (lambda raw: raw["verificationMaterial"].update(certificate={"rawBytes": "AA=="}), "must name one"),
        (lambda raw: raw["verificationMaterial"].pop("publicKey"), "must name one"),
        (lambda raw: raw["verificationMaterial"].update(x509CertificateChain={"certificates": []}), "must name one"),
        (lambda raw: raw["verificationMaterial"]["publicKey"].update(hint=1), "which key"),
        (lambda raw: raw["verificationMaterial"]["publicKey"].update(hint="a" * 63), "which key"),
        (lambda raw: raw["verificationMaterial"]["publicKey"].update(hint="A" * 64), "which key"),
        (lambda raw: raw["verificationMaterial"].update(publicKey=["hint"]), "which key"),
        (lambda raw: raw.update(verificationMaterial=None), "lacks"),
        (lambda raw: raw["dsseEnvelope"].update(signatures=[3]), "must be one"),
        (lambda raw: raw["dsseEnvelope"].update(payload=""), "is missing"),
        (lambda raw: raw["dsseEnvelope"]["signatures"][0].pop("sig"), "is missing"),
        (_with_certificates([]), "must be 1 to 16"),
        (_with_certificates([{"rawBytes": "AA=="}] * 17), "must be 1 to 16"),
        (_with_certificates(["AA=="]), "must be 1 to 16"),
        (_with_certificates([{"rawBytes": "*"}]), "base64"),
    ],
)
def test_a_signature_file_of_another_form_is_refused(
    folder: Path, keys: Path, change: Callable[[Any], Any], said: str
) -> None:
    content = json.loads(sign(folder, keys / "ours.key").read_bytes())
    change(content)
    assert said in refused(json.dumps(content).encode(), trust_in_key(keys / "ours.pub"))


STATEMENT: dict[str, Any] = {
    "_type": STATEMENT_TYPE,
    "predicateType": PREDICATE_TYPE,
    "predicate": {
        "serialization": {"method": "files", "hash_type": "sha256"},
        "resources": [
            {"algorithm": "sha256", "name": "b", "digest": "2" * 64},
            {"algorithm": "sha256", "name": "a", "digest": "1" * 64},
        ],
    },
    "subject": [{"digest": {"sha256": hashlib.sha256(bytes.fromhex("2" * 64 + "1" * 64)).hexdigest()}}],
}


def test_a_statement_says_which_files_were_signed() -> None:
    assert resources_of(json.dumps(STATEMENT).encode(), "payload") == {"a": "1" * 64, "b": "2" * 64}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw.update(_type="https://in-toto.io/Statement/v0.1"), "payload: is no"),
        (lambda raw: raw.update(predicateType="other"), "predicateType: is not"),
        (lambda raw: raw.update(predicate=[]), "predicateType: is not"),
        (lambda raw: raw["predicate"]["serialization"].update(method="shards"), "is not of whole files"),
        (lambda raw: raw["predicate"]["serialization"].update(hash_type="blake2"), "is not of whole files"),
        (lambda raw: raw["predicate"].update(serialization=None), "is not of whole files"),
        (lambda raw: raw["predicate"].update(resources={}), "must be a list, not empty"),
        (lambda raw: raw["predicate"].update(resources=[]), "must be a list, not empty"),
        (lambda raw: raw["predicate"]["resources"][1].update(algorithm="md5"), r"resources[1]: must hold"),
        (lambda raw: raw["predicate"]["resources"][1].update(name=3), r"resources[1]: must hold"),
        (lambda raw: raw["predicate"]["resources"][0].update(digest="2" * 63), r"resources[0]: must hold"),
        (lambda raw: raw["predicate"]["resources"][0].update(digest="G" * 64), r"resources[0]: must hold"),
        (lambda raw: raw["predicate"]["resources"].append("c"), r"resources[2]: must hold"),
        (lambda raw: raw["predicate"]["resources"][1].update(name="b"), r"resources[1]: lists 'b' twice"),
        (lambda raw: raw["predicate"]["resources"][1].update(digest="3" * 64), "subject: is not the digest"),
        (lambda raw: raw["predicate"]["resources"].reverse(), "subject: is not the digest"),
        (lambda raw: raw["subject"].append({}), "subject: is not the digest"),
        (lambda raw: raw.update(subject=[]), "subject: is not the digest"),
        (lambda raw: raw.update(subject=["x"]), "subject: is not the digest"),
        (lambda raw: raw["subject"][0].update(digest=None), "subject: is not the digest"),
    ],
)
def test_a_signed_statement_of_another_form_is_refused(change: Callable[[Any], Any], said: str) -> None:
    """What a trusted key signed may still be of another format, or damaged before it was signed."""
    raw = copy.deepcopy(STATEMENT)
    change(raw)
    with pytest.raises(BundleError) as caught:
        resources_of(json.dumps(raw).encode(), "payload")
    assert said in str(caught.value)


def test_of_two_equal_keys_none_is_taken(folder: Path, keys: Path) -> None:
    content = sign(folder, keys / "ours.key").read_bytes()
    twice = content.replace(b'{"mediaType"', b'{"mediaType":"other","mediaType"', 1)
    assert "stands twice" in refused(twice, trust_in_key(keys / "ours.pub"))


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{}", b"[" * 100_000])
def test_what_is_no_signature_file_is_refused(keys: Path, content: bytes) -> None:
    assert refused(content, trust_in_key(keys / "ours.pub"))


def test_a_key_counts_within_its_time_and_not_outside(folder: Path, keys: Path) -> None:
    content = sign(folder, keys / "ours.key").read_bytes()
    trust = lasting(keys, not_before_s=NOW_S - DAY_S, not_after_s=NOW_S + DAY_S)
    assert verify_signature(content, "model.sig", trust, NOW_S).signer.standing == "valid"
    assert "not yet valid" in refused(content, trust, NOW_S - 2 * DAY_S)
    assert "expired" in refused(content, trust, NOW_S + 2 * DAY_S)


@pytest.mark.parametrize("now_s", [0.0, NOW_S - 101 * DAY_S, 1e11, float("nan")])
def test_with_a_clock_that_is_wrong_expiry_is_unknown_and_never_valid(folder: Path, keys: Path, now_s: float) -> None:
    content = sign(folder, keys / "ours.key").read_bytes()
    trust = lasting(keys, not_after_s=NOW_S + DAY_S)
    assert "unknown" in refused(content, trust, now_s)
    allowed = replace(trust, allow_unknown_clock=True)
    assert verify_signature(content, "model.sig", allowed, now_s).signer.standing == "unknown"
    # What never ends needs no clock.
    assert verify_signature(content, "model.sig", lasting(keys), now_s).signer.standing == "valid"


def test_a_revoked_key_counts_no_more_whatever_the_clock_says(folder: Path, keys: Path) -> None:
    content = sign(folder, keys / "ours.key").read_bytes()
    trust = lasting(keys)
    revoked = replace(trust, revoked=((trust.keys[0].key_id, "leaked"),), allow_unknown_clock=True)
    assert "leaked" in refused(content, revoked)
    assert "leaked" in refused(content, revoked, 0.0)


def test_keys_rotate_while_both_count(folder: Path, keys: Path) -> None:
    both = Trust(keys=(*trust_in_key(keys / "ours.pub").keys, *trust_in_key(keys / "theirs.pub").keys))
    for name in ("ours", "theirs"):
        content = sign(folder, keys / f"{name}.key").read_bytes()
        assert verify_signature(content, "model.sig", both, NOW_S).signer.name == f"{name}.pub"


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


def test_without_openssl_nothing_verifies(folder: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = sign(folder, keys / "ours.key").read_bytes()
    trust = trust_in_key(keys / "ours.pub")
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(BundleError, match="openssl"):
        verify_signature(content, "model.sig", trust, NOW_S)
