"""The `openssl` command: what checks signatures where there is no Python library for it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from devices.errors import BundleError
from devices.files import scratch_folder, storage_errors

CURVES = {"prime256v1": "sha256", "secp384r1": "sha384", "secp521r1": "sha512"}
"""Curves of the keys that bundles are signed with, as `openssl` names them, each with its digest."""
WANTED_KEYS = "bundles are signed by ECDSA keys on P-256, P-384 or P-521"
_TIMEOUT_S = 30.0


def openssl(words: Sequence[str], files: Mapping[str, bytes]) -> tuple[int, str]:
    """Run `openssl` in an empty folder that holds `files`; returns its exit status and what it printed.

    Raises `BundleError` when there is no such command, or it does not end.
    """
    command = shutil.which("openssl")
    if command is None:
        what = "needs the command `openssl`, and this device has none"
        raise BundleError("signature", what, "Install it (apt-get install openssl)")
    # No configuration of the user's, which could load an engine that says yes to all, and no certificates of the
    # system's: `verify` would trust them beside the roots that it is given, and 1.1 knows no option against that.
    environment = {**os.environ, "OPENSSL_CONF": "/dev/null", "LC_ALL": "C"}
    environment |= {"SSL_CERT_DIR": "/dev/null", "SSL_CERT_FILE": "/dev/null"}
    with _laid_out(files) as folder:
        try:
            done = subprocess.run(
                [command, *words],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as cause:
            raise BundleError("signature", f"`openssl` did not end within {_TIMEOUT_S:g} s", "Try again") from cause
        except OSError as cause:
            raise BundleError("signature", f"`openssl` cannot be run ({cause.strerror})", "Mend it") from cause
    return done.returncode, done.stdout.decode("utf-8", "replace")


@contextmanager
def _laid_out(files: Mapping[str, bytes]) -> Iterator[Path]:
    with scratch_folder("espalier-verify-") as folder:
        with storage_errors(folder):
            for name, content in files.items():
                (folder / name).write_bytes(content)
        yield folder


def signed_by(key_pem: str, message: bytes, signature: bytes, digest: str) -> bool:
    """Whether this is that key's ECDSA signature of the message; `digest` such as "sha256"."""
    files = {"key.pem": key_pem.encode(), "message": message, "signature": signature}
    words = ["dgst", f"-{digest}", "-verify", "key.pem", "-signature", "signature", "message"]
    code, printed = openssl(words, files)
    # The words too: an older `openssl dgst` ended with 0 on some failures.
    return code == 0 and printed.strip() == "Verified OK"


def plain_key(key_pem: str) -> str | None:
    """A public key as `openssl` writes it: PEM of SubjectPublicKeyInfo. None for what is no public key."""
    code, printed = openssl(["pkey", "-pubin", "-in", "key.pem", "-pubout"], {"key.pem": key_pem.encode()})
    start = printed.find("-----BEGIN PUBLIC KEY-----")
    return printed[start:] if code == 0 and start >= 0 else None


def key_type(key_pem: str) -> str:
    """Type of a public key: of one on a curve its name, such as `prime256v1`; else `RSA`, `ED25519` and so on."""
    code, printed = openssl(["pkey", "-pubin", "-in", "key.pem", "-noout", "-text_pub"], {"key.pem": key_pem.encode()})
    lines = printed.splitlines() if code == 0 else []
    curves = [line.partition(":")[2].strip() for line in lines if line.startswith("ASN1 OID:")]
    # The head is "RSA Public-Key:" in 1.1 and "Public-Key:" since, "ED25519 Public-Key:" in both.
    heads = [line.partition("Public-Key:")[0].strip() for line in lines[:1] if "Public-Key:" in line]
    of_rsa = ["RSA"] if "Modulus:" in lines else []
    return next((name for name in (*curves, *of_rsa, *heads) if name), "unknown")
