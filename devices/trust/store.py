"""`trust.toml`: whose signatures count here, until when, and which do not any more."""

from __future__ import annotations

import difflib
import hashlib
import math
import re
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

from devices.errors import BundleError
from devices.files import read_limited, read_toml
from devices.trust.clock import Lifetime
from devices.trust.openssl import CURVES, WANTED_KEYS, key_type, plain_key

_MAX_FILE_BYTES = 1 << 20
_KEYS = {
    "": ("issued", "keys", "certificates", "revoked"),
    "keys": ("name", "public_key", "not_before", "not_after"),
    "certificates": ("name", "roots", "subjects", "revocations"),
    "revoked": ("key_id", "reason"),
}
_EXAMPLE = "See `espalier keygen`, which writes one"


@dataclass(frozen=True, kw_only=True)
class TrustedKey:
    """A public key whose signatures count."""

    name: str
    pem: str
    lifetime: Lifetime = field(default_factory=Lifetime)

    @property
    def key_id(self) -> str:
        """SHA-256 of the key in PEM, as model-signing hints at it."""
        return hashlib.sha256(self.pem.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class TrustedRoot:
    """Certificates that vouch for others, and for whom of them signatures count."""

    name: str
    roots_pem: str
    subjects: tuple[str, ...]
    """Subjects as RFC 2253 writes them, such as `CN=release,O=Example`."""
    revocations_pem: str | None = None
    """Lists of certificates that were taken back (CRL): one of each who vouches for another, one after the other."""


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Whose signatures count."""

    keys: tuple[TrustedKey, ...] = ()
    roots: tuple[TrustedRoot, ...] = ()
    revoked: tuple[tuple[str, str], ...] = ()
    """Identifiers of keys that do not count any more, each with the reason."""
    issued_s: float = 0.0
    """When this was written, in seconds since 1970: a clock that shows an earlier time is wrong."""
    allow_unknown_clock: bool = False
    """Take a key that may have expired while the clock is plainly wrong; only when said by name."""
    allow_unsigned: bool = False
    """Take what nobody signed; only when said by name. What is signed must be by who is trusted all the same."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of all who are trusted."""
        return (*(key.name for key in self.keys), *(root.name for root in self.roots))


UNSIGNED = Trust(allow_unsigned=True)
"""Nobody is trusted, and nobody need be: what this machine made itself, or what the user vouches for."""


def trust_in_key(path: Path) -> Trust:
    """Trust in one public key, for as long as the caller gives it. Raises `BundleError`."""
    return Trust(keys=(TrustedKey(name=path.name, pem=_public_key(_read(path), str(path))),))


def read_trust(path: Path) -> Trust:
    """Read and check a file of trust; files that it names lie beside it. Raises `BundleError` that names the key."""
    raw = read_toml(path, BundleError)
    _refuse_unknown(raw, "", str(path))
    issued_s = _moment(raw.get("issued"), f"{path}: issued")
    if issued_s is None:
        raise BundleError(f"{path}: issued", "is missing", "Write the day on which the file was changed last")
    keys = [_read_key(entry, where, path.parent) for where, entry in _entries(raw, "keys", path)]
    roots = [_read_root(entry, where, path.parent) for where, entry in _entries(raw, "certificates", path)]
    revoked = [_read_revoked(entry, where) for where, entry in _entries(raw, "revoked", path)]
    if not keys and not roots:
        raise BundleError(str(path), "trusts nobody", f"Add [[keys]] or [[certificates]]. {_EXAMPLE}")
    names = [*(key.name for key in keys), *(root.name for root in roots)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BundleError(f"{path}: name", f"{twice!r:.80} stands twice", "Give each a name of its own")
    return Trust(keys=tuple(keys), roots=tuple(roots), revoked=tuple(revoked), issued_s=issued_s)


def _entries(raw: dict[str, Any], section: str, path: Path) -> list[tuple[str, dict[str, Any]]]:
    entries = raw.get(section, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BundleError(f"{path}: {section}", "must be tables", f"Write [[{section}]]. {_EXAMPLE}")
    for index, entry in enumerate(entries):
        _refuse_unknown(entry, section, f"{path}: {section}[{index}]")
    return [(f"{path}: {section}[{index}]", entry) for index, entry in enumerate(entries)]


def _refuse_unknown(raw: dict[str, Any], section: str, where: str) -> None:
    for key in raw:
        if key not in _KEYS[section]:
            near = difflib.get_close_matches(key, _KEYS[section], n=1, cutoff=0.4)
            hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(_KEYS[section])}"
            raise BundleError(f"{where}: {key}", "is not a key of a file of trust", hint)


def _read_key(entry: dict[str, Any], where: str, folder: Path) -> TrustedKey:
    place = folder / _text(entry, "public_key", where)
    lifetime = Lifetime(
        not_before_s=_moment(entry.get("not_before"), f"{where}: not_before"),
        not_after_s=_moment(entry.get("not_after"), f"{where}: not_after"),
    )
    if (lifetime.not_before_s or -math.inf) >= (lifetime.not_after_s or math.inf):
        raise BundleError(f"{where}: not_after", "comes before not_before", "Correct one of them")
    pem = _public_key(_read(place), str(place))
    return TrustedKey(name=_text(entry, "name", where), pem=pem, lifetime=lifetime)


def _read_root(entry: dict[str, Any], where: str, folder: Path) -> TrustedRoot:
    subjects = entry.get("subjects")
    if not isinstance(subjects, list) or not subjects or not all(isinstance(name, str) and name for name in subjects):
        what = "must be a list of at least one subject: whom else the root vouches for need not be trusted"
        raise BundleError(f"{where}: subjects", what, 'Such as ["CN=release,O=Example"]')
    revocations = entry.get("revocations")
    return TrustedRoot(
        name=_text(entry, "name", where),
        roots_pem=_read(folder / _text(entry, "roots", where)),
        subjects=tuple(subjects),
        revocations_pem=None if revocations is None else _read(folder / _text(entry, "revocations", where)),
    )


def _read_revoked(entry: dict[str, Any], where: str) -> tuple[str, str]:
    key_id = _text(entry, "key_id", where)
    if not re.fullmatch(r"[0-9a-f]{64}", key_id):
        raise BundleError(f"{where}: key_id", "is no SHA-256 in hexadecimal", "`espalier verify` prints it")
    return key_id, _text(entry, "reason", where)


def _text(entry: dict[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise BundleError(f"{where}: {key}", "must be a text, not empty", _EXAMPLE)
    return value


def _moment(value: Any, where: str) -> float | None:
    """Seconds since 1970. A TOML date is its first moment, UTC; a time without a zone is UTC."""
    if value is None:
        return None
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp()
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=timezone.utc).timestamp()
    raise BundleError(where, "must be a date", "Write it as 2027-01-31, without quotes")


def _read(path: Path) -> str:
    try:
        content = read_limited(path, _MAX_FILE_BYTES)
    except OSError as cause:
        raise BundleError(str(path), f"cannot be read ({cause.strerror})", "Check the path") from cause
    # Also of a name that no file system takes.
    except ValueError as cause:
        raise BundleError(str(path), f"cannot be read ({cause})", "Check the path") from cause
    if not content.isascii():
        raise BundleError(str(path), "is not in PEM", "`openssl` writes and converts to it")
    return content.decode("ascii")


def _public_key(content: str, where: str) -> str:
    if "PRIVATE KEY" in content:
        what = "is a private key, and who only verifies must not have it"
        raise BundleError(where, what, "Give the public one; `espalier keygen` writes both")
    pem = plain_key(content)
    if pem is None:
        raise BundleError(where, "is no public key in PEM", "`espalier keygen` writes one")
    kind = key_type(pem)
    if kind not in CURVES:
        what = f"is a key of the wrong type ({kind}): {WANTED_KEYS}"
        raise BundleError(where, what, "Give such a key; `espalier keygen` makes one")
    return pem
