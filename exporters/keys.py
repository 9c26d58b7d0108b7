"""Make a key for signing, with the file of trust that those who verify need."""

from __future__ import annotations

import os
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

from devices.errors import BundleError
from devices.extras import install
from devices.files import make_folder, storage_errors, write_atomic
from devices.trust.store import TrustedKey

_INSTALL = install("sign")


def make_key(folder: Path, name: str, password: str | None, not_after: date) -> TrustedKey:
    """Write `NAME.key` (ECDSA, P-256; readable by its owner only), `NAME.pub` and `NAME.trust.toml`.

    Raises `BundleError` when one of them is there already: a key that is written over is lost.
    """
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as cause:
        raise BundleError("cryptography", f"does not load ({cause})", _INSTALL) from cause
    # It stands in the file of trust, between quotes.
    if not name or not name.isprintable() or any(sign in name for sign in '"\\'):
        what = f"{name!r:.80} is no name for a key"
        raise BundleError("keygen", what, "Take letters, digits, dots and dashes, such as keys/release")
    places = [folder / f"{name}{suffix}" for suffix in (".key", ".pub", ".trust.toml")]
    there = next((path for path in places if path.exists() or path.is_symlink()), None)
    if there is not None:
        raise BundleError(str(there), "is there already", "Choose another name; keys are not written over")
    key = ec.generate_private_key(ec.SECP256R1())
    encryption = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    with storage_errors(folder):
        make_folder(folder)
        # Never readable by others, not even for a moment; and not written over.
        handle = os.open(places[0], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(private)
    write_atomic(places[1], public)
    trusted = TrustedKey(name=name, pem=public.decode())
    write_atomic(places[2], _trust_file(trusted, places[1].name, not_after).encode())
    return trusted


def private_key_type(content: bytes, password: str | None) -> str | None:
    """What kind of private key a PEM holds: of one on a curve its name, such as `secp256r1`; else `RSA` and so on.

    None where it cannot be opened, by this password or at all.
    """
    try:
        key = _private_key(content, password)
    except ValueError:
        return None
    # Only keys on a curve have one.
    curve = getattr(key, "curve", None)
    return str(curve.name) if curve else type(key).__name__.lstrip("_").removesuffix("PrivateKey")


def public_half(private_key: Path, password: str | None) -> str:
    """The public key in PEM. Raises `BundleError` for a file that is no private key, or with another password."""
    try:
        key = _private_key(private_key.read_bytes(), password)
    except OSError as cause:
        raise BundleError(str(private_key), f"cannot be read ({cause.strerror})", "Check the path") from cause
    except ValueError as cause:
        what = f"is no private key that can be used ({cause!s:.120})"
        fix = "Check the file, and its password in ESPALIER_KEY_PASSWORD"
        raise BundleError(str(private_key), what, fix) from cause
    from cryptography.hazmat.primitives import serialization

    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return str(public.decode())


def _private_key(content: bytes, password: str | None) -> Any:
    """A private key from PEM. Raises `ValueError` when it cannot be opened, by this password or at all."""
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as cause:
        raise BundleError("cryptography", f"does not load ({cause})", _INSTALL) from cause
    try:
        return serialization.load_pem_private_key(content, password.encode() if password else None)
    # Its errors are of many kinds, and name no file.
    except Exception as cause:
        raise ValueError(" ".join(str(cause).split()) or type(cause).__name__) from cause


def _trust_file(key: TrustedKey, public_name: str, not_after: date) -> str:
    today = datetime.now(timezone.utc).date().isoformat()
    return f"""# Whose signatures count. Give it to those who verify, with {public_name}: --trust {key.name}.trust.toml
issued = {today}                 # set it to today with every change: an earlier clock is known to be wrong

[[keys]]
name = "{key.name}"
public_key = "{public_name}"           # beside this file
not_before = {today}
not_after = {not_after.isoformat()}

# To change keys, add the new one as another [[keys]] before the old one ends. A key that leaked:
# [[revoked]]
# key_id = "{key.key_id}"
# reason = "leaked on ..."
"""
