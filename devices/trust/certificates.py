"""A signer's certificate: whether a trusted root vouches for it, for whom, and until when."""

from __future__ import annotations

import base64
import textwrap

from devices.errors import BundleError
from devices.trust.clock import Standing, plausible
from devices.trust.envelope import Envelope
from devices.trust.openssl import openssl
from devices.trust.store import Trust, TrustedRoot

_USES = ("Digital Signature", "Code Signing")
_DO_NOT_USE = "Do not use it; have it signed by somebody who is trusted"


def signer_by_certificate(envelope: Envelope, where: str, trust: Trust, now_s: float) -> tuple[str, str, Standing]:
    """Name of the root that vouches and of the signer, the signer's public key in PEM, and how its time stands.

    Raises `BundleError` when no root of `trust` vouches for it, or for others only, or when it may not sign.
    """
    if not trust.roots:
        raise BundleError(where, "is signed with a certificate, and no root is trusted here", _DO_NOT_USE)
    leaf, between = _pem(envelope.certificates[0]), b"".join(map(_pem, envelope.certificates[1:]))
    subject = _shown(leaf, "-subject", "-nameopt", "RFC2253", where=where).partition("=")[2].strip()
    reasons = []
    for root in trust.roots:
        reason = _why_not(leaf, between, root, [])
        if reason is None and subject in root.subjects:
            _require_use(leaf, where)
            standing = _standing(leaf, between, root, trust, now_s)
            pem = _shown(leaf, "-pubkey", where=where)
            return f"{root.name}: {subject}", pem, standing
        reasons.append(f"{root.name}: {reason or 'vouches for it, but it is not one of its subjects'}")
    what = f"is signed by the certificate of '{subject}', which is not trusted here ({'; '.join(reasons)})"
    raise BundleError(where, what, _DO_NOT_USE)


def _standing(leaf: bytes, between: bytes, root: TrustedRoot, trust: Trust, now_s: float) -> Standing:
    if not plausible(now_s, trust.issued_s):
        return "unknown"
    reason = _why_not(leaf, between, root, ["-attime", str(int(now_s))])
    if reason is None:
        return "valid"
    return "not yet valid" if "not yet valid" in reason else "expired"


def _why_not(leaf: bytes, between: bytes, root: TrustedRoot, at: list[str]) -> str | None:
    """Why the chain does not lead to the root; None when it does. Without `at`, whatever the time."""
    files = {"leaf.pem": leaf, "between.pem": between, "roots.pem": root.roots_pem.encode()}
    words = ["verify", "-no-CApath", "-CAfile", "roots.pem", "-purpose", "any", *(at or ["-no_check_time"])]
    if between:
        words += ["-untrusted", "between.pem"]
    if root.revocations_pem is not None:
        files["revocations.pem"] = root.revocations_pem.encode()
        # Of those between too: with the first alone, who was taken back could still vouch.
        words += ["-crl_check", "-crl_check_all", "-CRLfile", "revocations.pem"]
    code, printed = openssl([*words, "leaf.pem"], files)
    if code == 0 and printed.strip().endswith("OK"):
        return None
    said = [line.partition("lookup:")[2] for line in printed.splitlines() if "lookup:" in line]
    return said[0].strip() if said else "no path of certificates leads to it"


def _require_use(leaf: bytes, where: str) -> None:
    uses = _shown(leaf, "-ext", "keyUsage,extendedKeyUsage", where=where)
    if not any(use in uses for use in _USES):
        raise BundleError(where, "is signed with a certificate that is not for signing", _DO_NOT_USE)


def _shown(certificate: bytes, *words: str, where: str) -> str:
    code, printed = openssl(["x509", "-in", "leaf.pem", "-noout", *words], {"leaf.pem": certificate})
    if code != 0:
        raise BundleError(where, "holds a certificate that cannot be read", _DO_NOT_USE)
    return printed


def _pem(der: bytes) -> bytes:
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""]).encode()
