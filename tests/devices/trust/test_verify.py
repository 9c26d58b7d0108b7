"""Signatures of OpenSSF model-signing, checked with the standard library and `openssl` alone."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from devices.errors import BundleError
from devices.files import digest_file
from devices.trust.clock import Lifetime
from devices.trust.envelope import PREDICATE_TYPE, STATEMENT_TYPE, resources_of
from devices.trust.store import Trust, trust_in_key
from devices.trust.verify import verify_signature
from tests.devices.trust.signers import sign
from tests.devices.trust.verify_parts import DAY_S, NOW_S, refused


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
