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
_READ_LIST = ("crl", "-in", "revocations.pem", "-noout")
_DO_NOT_USE = "Do not use it; have it signed by somebody who is trusted"


def signer_by_certificate(envelope: Envelope, where: str, trust: Trust, now_s: float) -> tuple[str, str, Standing]:
    """Name of the root that vouches and of the signer, the signer's public key in PEM, and how its time stands.

    Raises `BundleError` when no root of `trust` vouches for it, or for others only, when it may not sign, and when
    nobody can tell whether it was taken back, because the list that would say so is out of date or cannot be used.
    """
    if not trust.roots:
        raise BundleError(where, "is signed with a certificate, and no root is trusted here", _DO_NOT_USE)
    leaf, between = _pem(envelope.certificates[0]), b"".join(map(_pem, envelope.certificates[1:]))
    subject = _shown(leaf, "-subject", "-nameopt", "RFC2253", where=where).partition("=")[2].strip()
    reasons = []
    for root in trust.roots:
        faults = _faults(leaf, between, root, [])
        if subject not in root.subjects:
            reasons.append(
                f"{root.name}: {faults[0] if faults else 'vouches for it, but it is not one of its subjects'}"
            )
            continue
        _require_lists(faults, root, subject, where)
        if not faults:
            _require_use(leaf, where)
            standing = _standing(leaf, between, root, trust, now_s, subject, where)
            return f"{root.name}: {subject}", _shown(leaf, "-pubkey", where=where), standing
        reasons.append(f"{root.name}: {faults[0]}")
    what = f"is signed by the certificate of '{subject}', which is not trusted here ({'; '.join(reasons)})"
    raise BundleError(where, what, _DO_NOT_USE)


def _standing(
    leaf: bytes, between: bytes, root: TrustedRoot, trust: Trust, now_s: float, subject: str, where: str
) -> Standing:
    if not plausible(now_s, trust.issued_s):
        return "unknown"
    faults = _faults(leaf, between, root, ["-attime", str(int(now_s))])
    if not faults:
        return "valid"
    # Of the signer first: one that has expired does not become better by another list.
    if any(fault.startswith("certificate is not yet valid") for fault in faults):
        return "not yet valid"
    if any(fault.startswith("certificate has expired") for fault in faults):
        return "expired"
    _require_lists(faults, root, subject, where)
    raise BundleError(where, f"is signed by '{subject}', which does not count now ({faults[0]})", _DO_NOT_USE)


def _require_lists(faults: list[str], root: TrustedRoot, subject: str, where: str) -> None:
    """Raise `BundleError` when it is a revocation list that is at fault, and not who signed."""
    of_lists = [fault for fault in faults if "CRL" in fault]
    if of_lists and len(of_lists) == len(faults):
        told = f"the revocation list of '{root.name}' cannot tell whether that still counts ({of_lists[0]})"
        fix = "Fetch the newest list of everybody who vouches, and put them into the file that `revocations` names"
        raise BundleError(where, f"is signed by '{subject}', and {told}", fix)


def _faults(leaf: bytes, between: bytes, root: TrustedRoot, at: list[str]) -> list[str]:
    """Why the chain does not lead to the root, in the words of `openssl`; empty when it does.

    Without `at`, whatever the time.
    """
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
        return []
    said = [line.partition("lookup:")[2].strip() for line in printed.splitlines() if "lookup:" in line]
    if not said and root.revocations_pem is not None and openssl(_READ_LIST, files)[0] != 0:
        return ["it is no CRL in PEM"]
    return said or ["no path of certificates leads to it"]


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
