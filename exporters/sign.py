"""Sign a bundle with OpenSSF model-signing: with a key, with a certificate, or keyless where the network allows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from devices.bundle import MANIFEST, open_whole
from devices.errors import BundleError
from devices.extras import install
from devices.files import scratch_folder, write_atomic
from devices.trust.envelope import SIGNATURE_FILE, read_envelope, resources_of
from devices.trust.openssl import WANTED_KEYS
from exporters.keys import private_key_type

_INSTALL = install("sign")
_CURVES = ("secp256r1", "secp384r1", "secp521r1")


@dataclass(frozen=True, kw_only=True)
class SignConfig:
    """Who signs. Exactly one of `private_key` and `keyless`."""

    private_key: Path | None = None
    """ECDSA key in PEM, on P-256, P-384 or P-521."""
    password: str | None = None
    """Of an encrypted key."""
    certificate: Path | None = None
    """Of that key, when others verify by certificates."""
    chain: tuple[Path, ...] = ()
    """Certificates between it and a root."""
    keyless: bool = False
    """By Sigstore: an identity is asked for, and the network is needed."""


def sign_bundle(folder: Path, config: SignConfig) -> str:
    """Write `model.sig` over all files of a bundle of any kind; returns the bundle's kind.

    Only what is whole is signed, and what was signed is read back: the signature is put in place when it lists every
    file of the bundle with the digest that was verified. Raises `BundleError` on a damaged bundle, an unusable key or a
    certificate that does not count now.
    """
    bundle = open_whole(folder)
    signer = _signer(config)
    with scratch_folder("espalier-sign-") as scratch:
        partial = scratch / SIGNATURE_FILE
        _sign(signer, folder, partial)
        content = partial.read_bytes()
    listed = resources_of(read_envelope(content, SIGNATURE_FILE).payload, SIGNATURE_FILE)
    wanted = {**bundle.digests, MANIFEST: bundle.manifest_digest}
    for path in sorted(set(wanted) ^ set(listed)):
        what = "cannot be signed: model-signing leaves files of this name out"
        raise BundleError(str(folder / path), what, "Make the bundle without it")
    changed = next((path for path in sorted(wanted) if wanted[path] != listed[path]), None)
    if changed is not None:
        raise BundleError(str(folder / changed), "changed while it was signed", "Sign it again")
    write_atomic(folder / SIGNATURE_FILE, content)
    return str(bundle.manifest["kind"])


def _signer(config: SignConfig) -> Callable[[Any], Any]:
    """What names the signer to model-signing."""
    if config.keyless == (config.private_key is not None):
        raise BundleError("signer", "must be one: a key, or keyless", "Give --key FILE or --keyless")
    key = config.private_key
    if key is None:
        return lambda signing: signing.use_sigstore_signer()
    _require_private(key, config.password)
    if config.certificate is None:
        return lambda signing: signing.use_elliptic_key_signer(
            private_key=key, password=config.password.encode() if config.password else None
        )
    if config.password is not None:
        what = "is encrypted, and model-signing takes no password beside a certificate"
        raise BundleError(str(key), what, "Give a key that is not encrypted")
    require_current(config)
    # model-signing takes no empty chain; the certificate itself adds nothing to it.
    chain = config.chain or (config.certificate,)
    return lambda signing: signing.use_certificate_signer(
        private_key=key, signing_certificate=config.certificate, certificate_chain=chain
    )


def _require_private(key: Path, password: str | None) -> None:
    """Raise `BundleError` for a file that is no private key, or one of a type that no bundle is signed with."""
    try:
        content = key.read_bytes()
    except OSError as cause:
        raise BundleError(str(key), f"cannot be read ({cause.strerror})", "Check the path") from cause
    if b"PRIVATE KEY" not in content or b"OPENSSH" in content:
        raise BundleError(str(key), "is no private key in PEM", "`espalier keygen` writes one")
    kind = private_key_type(content, password)
    if kind is not None and kind not in _CURVES:
        what = f"is a key of the wrong type ({kind}): {WANTED_KEYS}"
        raise BundleError(str(key), what, "Give such a key; `espalier keygen` makes one")


def require_current(config: SignConfig) -> None:
    """Raise `BundleError` for a certificate that has expired or is not yet valid, or a file that is none.

    Those between it and the root count too. model-signing signs with them all the same, and then nobody can verify the
    bundle.
    """
    if config.certificate is not None:
        _require_current(config.certificate, "Give the certificate of --key", "this key")
    for between in config.chain:
        _require_current(between, "Give a certificate between that of --key and the root", "who signed the next one")


def _require_current(path: Path, wanted: str, owner: str) -> None:
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as cause:
        raise BundleError(str(path), f"cannot be read ({cause.strerror})", "Check the path") from cause
    except ValueError as cause:
        raise BundleError(str(path), "is no certificate in PEM", wanted) from cause
    now = datetime.now(timezone.utc)
    for read in found:
        first, last = read.not_valid_before_utc, read.not_valid_after_utc
        if first <= now <= last:
            continue
        standing = "has expired" if now > last else "is not yet valid"
        what = f"{standing}: it counts from {_minute(first)} to {_minute(last)}, and now it is {_minute(now)}"
        raise BundleError(str(path), what, f"Have a new one issued for {owner}, or set the clock if it is wrong")


def _minute(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"


def _sign(signer: Callable[[Any], Any], folder: Path, signature: Path) -> None:
    try:
        from model_signing import hashing, signing
    except ImportError as cause:
        raise BundleError("model-signing", f"does not load ({cause})", _INSTALL) from cause
    # The bundle's own name is not part of it: a copy under another name is the same bundle.
    hashes = hashing.Config()  # type: ignore[no-untyped-call]
    # What is left out is named from within the folder.
    hashes = hashes.set_allow_symlinks(False).set_ignored_paths(paths=[SIGNATURE_FILE])
    try:
        config = signer(signing.Config())  # type: ignore[no-untyped-call]
        config.set_hashing_config(hashes).sign(folder, signature)
    # Its errors, and those of what it calls, are of many kinds: all mean that nothing was signed.
    except Exception as cause:
        text = " ".join(str(cause).split()) or type(cause).__name__
        raise BundleError(
            str(folder), f"was not signed ({text:.200})", "Check the key, its password and chain"
        ) from cause
