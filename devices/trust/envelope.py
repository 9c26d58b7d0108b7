"""The signature file: a Sigstore bundle with a DSSE envelope around an in-toto statement, as model-signing writes it.

Formats: https://github.com/sigstore/protobuf-specs (bundle v0.3), https://github.com/secure-systems-lab/dsse (v1.0.0),
https://github.com/in-toto/attestation (statement v1).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from devices.errors import BundleError

SIGNATURE_FILE = "model.sig"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
MAX_SIGNATURE_BYTES = 16 << 20
_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_MAX_CERTIFICATES = 16
_SIGN_AGAIN = "Have it signed again, and do not use it until then"


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What a signature file holds. Nothing in it is believed before the signature is checked."""

    payload: bytes
    signature: bytes
    key_hint: str
    """SHA-256 of the signer's public key in PEM; empty when it signed with a certificate."""
    certificates: tuple[bytes, ...]
    """DER: the signer's own first, then those between it and a root. Empty when it signed with a key."""
    logged: bool
    """Whether it has entries of a transparency log, as keyless signatures do."""

    @property
    def message(self) -> bytes:
        """What was signed: DSSE's pre-authentication encoding of the payload."""
        head = f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(self.payload)} "
        return head.encode() + self.payload


def read_envelope(content: bytes, where: str) -> Envelope:
    """Read a signature file. Raises `BundleError` that names the place in it."""
    raw = _json(content, where)
    _require(isinstance(raw, dict) and raw.get("mediaType") == _MEDIA_TYPE, where, f"is no {_MEDIA_TYPE}")
    envelope, material = raw.get("dsseEnvelope"), raw.get("verificationMaterial")
    _require(isinstance(envelope, dict) and isinstance(material, dict), where, "lacks its envelope, or who signed it")
    _require(envelope.get("payloadType") == PAYLOAD_TYPE, f"{where}: payloadType", f"is not {PAYLOAD_TYPE}")
    signatures = envelope.get("signatures")
    one = isinstance(signatures, list) and len(signatures) == 1 and isinstance(signatures[0], dict)
    _require(one, f"{where}: signatures", "must be one")
    key, chain = material.get("publicKey"), material.get("x509CertificateChain")
    single = material.get("certificate")
    _require(
        sum(found is not None for found in (key, chain, single)) == 1,
        f"{where}: verificationMaterial",
        "must name one key, or one chain of certificates",
    )
    return Envelope(
        payload=_bytes(envelope.get("payload"), f"{where}: payload"),
        signature=_bytes(signatures[0].get("sig"), f"{where}: signatures[0].sig"),
        key_hint=_hint(key, f"{where}: publicKey"),
        certificates=_certificates(chain, single, f"{where}: certificates"),
        logged=bool(material.get("tlogEntries")),
    )


def resources_of(payload: bytes, where: str) -> dict[str, str]:
    """SHA-256 of each file that a signed statement lists, by path. Raises `BundleError` for any other statement."""
    raw = _json(payload, where)
    _require(isinstance(raw, dict) and raw.get("_type") == STATEMENT_TYPE, where, f"is no {STATEMENT_TYPE}")
    predicate = raw.get("predicate")
    of_models = raw.get("predicateType") == PREDICATE_TYPE and isinstance(predicate, dict)
    _require(of_models, f"{where}: predicateType", f"is not {PREDICATE_TYPE}")
    how, listed = predicate.get("serialization"), predicate.get("resources")
    by_file = isinstance(how, dict) and how.get("method") == "files" and how.get("hash_type") == "sha256"
    _require(by_file, f"{where}: serialization", "is not of whole files by SHA-256")
    _require(isinstance(listed, list) and bool(listed), f"{where}: resources", "must be a list, not empty")
    found: dict[str, str] = {}
    for index, entry in enumerate(listed):
        place = f"{where}: resources[{index}]"
        sound = isinstance(entry, dict) and entry.get("algorithm") == "sha256" and isinstance(entry.get("name"), str)
        _require(sound and _is_digest(entry.get("digest")), place, "must hold a name and its SHA-256")
        _require(entry["name"] not in found, place, f"lists {entry['name']!r:.80} twice")
        found[entry["name"]] = entry["digest"]
    _require_subject(raw.get("subject"), found, f"{where}: subject")
    return found


def _require_subject(subject: Any, resources: dict[str, str], where: str) -> None:
    """The subject's digest is that of all digests in the order in which they are listed."""
    joined = b"".join(map(bytes.fromhex, resources.values()))
    one = isinstance(subject, list) and len(subject) == 1 and isinstance(subject[0], dict)
    digest = subject[0].get("digest") if one else None
    right = isinstance(digest, dict) and digest.get("sha256") == hashlib.sha256(joined).hexdigest()
    _require(right, where, "is not the digest of what is listed")


def _certificates(chain: Any, single: Any, where: str) -> tuple[bytes, ...]:
    if chain is None and single is None:
        return ()
    found = chain.get("certificates") if isinstance(chain, dict) else [single]
    entries = found if isinstance(found, list) and all(isinstance(entry, dict) for entry in found) else []
    _require(0 < len(entries) <= _MAX_CERTIFICATES, where, f"must be 1 to {_MAX_CERTIFICATES}")
    return tuple(_bytes(entry.get("rawBytes"), f"{where}[{index}]") for index, entry in enumerate(entries))


def _hint(key: Any, where: str) -> str:
    if key is None:
        return ""
    _require(isinstance(key, dict) and _is_digest(key.get("hint")), where, "does not say which key it is")
    hint: str = key["hint"]
    return hint


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")


def _bytes(value: Any, where: str) -> bytes:
    _require(isinstance(value, str) and bool(value), where, "is missing")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as cause:
        raise BundleError(where, "is not base64", _SIGN_AGAIN) from cause


def _json(content: bytes, where: str) -> Any:
    try:
        return json.loads(content, object_pairs_hook=_once)
    except (ValueError, RecursionError) as cause:
        raise BundleError(where, f"is not JSON ({cause})", _SIGN_AGAIN) from cause


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Of two equal keys one reader takes the first and another the last.
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _require(holds: bool, where: str, what: str) -> None:
    if not holds:
        raise BundleError(where, what, _SIGN_AGAIN)
