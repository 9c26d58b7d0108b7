"""Whose signature it is, and whether it counts here and now."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from devices.errors import BundleError
from devices.trust.certificates import signer_by_certificate
from devices.trust.clock import Standing, day
from devices.trust.envelope import Envelope, read_envelope, resources_of
from devices.trust.openssl import CURVES, WANTED_KEYS, key_type, signed_by
from devices.trust.store import Trust, TrustedKey

_DO_NOT_USE = "Do not use it; fetch it again from where it was made"


@dataclass(frozen=True, kw_only=True)
class Signer:
    """Who signed."""

    name: str
    """As the file of trust calls it."""
    kind: Literal["key", "certificate"]
    key_id: str
    """SHA-256 of the public key in PEM."""
    standing: Standing
    """`valid`; `unknown` only where that was allowed by name."""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A signature that counts, and the files it stands for."""

    signer: Signer
    digests: dict[str, str]
    """SHA-256 by path."""


def verify_signature(content: bytes, where: str, trust: Trust, now_s: float | None = None) -> Verified:
    """Check a signature file against who is trusted; `now_s` is this machine's clock unless given.

    Raises `BundleError` on a signer who is not trusted, was revoked or expired, on a signature that is not theirs, and
    when the clock cannot tell, unless `trust.allow_unknown_clock`.
    """
    envelope = read_envelope(content, where)
    moment_s = time.time() if now_s is None else now_s
    if envelope.certificates:
        name, pem, standing = signer_by_certificate(envelope, where, trust, moment_s)
        signer = Signer(name=name, kind="certificate", key_id=_checked(envelope, pem, where), standing=standing)
    else:
        key = _trusted_key(envelope, where, trust)
        standing = key.lifetime.standing(moment_s, trust.issued_s)
        signer = Signer(name=key.name, kind="key", key_id=_checked(envelope, key.pem, where), standing=standing)
    _require_standing(signer, where, trust, moment_s)
    return Verified(signer=signer, digests=resources_of(envelope.payload, f"{where}: payload"))


def _trusted_key(envelope: Envelope, where: str, trust: Trust) -> TrustedKey:
    for key in trust.keys:
        if key.key_id == envelope.key_hint:
            return key
    known = ", ".join(trust.names)
    what = f"is signed by key {envelope.key_hint[:16]}, which is not trusted here"
    raise BundleError(where, what, f"Trusted are: {known}. Add the key, or have it signed by one of them")


def _checked(envelope: Envelope, pem: str, where: str) -> str:
    """Identifier of the key whose signature it is. Raises `BundleError` when it is not this key's."""
    kind = key_type(pem)
    digest = CURVES.get(kind)
    if digest is None:
        what = f"is by a key of the wrong type ({kind}): {WANTED_KEYS}"
        raise BundleError(where, what, "Have it signed by such a key; `espalier keygen` makes one")
    if not signed_by(pem, envelope.message, envelope.signature, digest):
        raise BundleError(where, "is not the signature of what it lists: it was changed or damaged", _DO_NOT_USE)
    return TrustedKey(name="", pem=pem).key_id


def _require_standing(signer: Signer, where: str, trust: Trust, now_s: float) -> None:
    reason = dict(trust.revoked).get(signer.key_id)
    if reason is not None:
        raise BundleError(where, f"is signed by '{signer.name}', which was revoked: {reason}", _DO_NOT_USE)
    if signer.standing == "valid" or (signer.standing == "unknown" and trust.allow_unknown_clock):
        return
    today = day(now_s)
    if signer.standing == "unknown":
        what = f"is signed by '{signer.name}', and whether that has expired is unknown: the clock says {today}"
        fix = "Set the clock, or pass --allow-unknown-clock (in Python: allow_unknown_clock=True)"
        raise BundleError(where, what, fix)
    what = f"is signed by '{signer.name}', which is {signer.standing} on {today}"
    raise BundleError(where, what, "Have it signed by a key that is valid")
