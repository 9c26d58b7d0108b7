"""Keyless signatures, by Sigstore: verified on the host alone, as a board has neither the library nor the network."""

from __future__ import annotations

import os
from pathlib import Path

from devices.bundle import MANIFEST, Bundle, open_whole, read_signature
from devices.errors import BundleError
from devices.extras import install
from devices.files import scratch_folder
from devices.trust.envelope import SIGNATURE_FILE, read_envelope, resources_of

_INSTALL = install("sign")


def verify_keyless(folder: Path, identity: str | None, issuer: str | None) -> Bundle:
    """Verify that this identity signed the bundle, by the transparency log, and that the bundle is whole.

    Raises `BundleError`.
    """
    if not identity or not issuer:
        fix = "Give --identity NAME and --issuer URL"
        raise BundleError("keyless", "needs to know who must have signed, and who vouches for them", fix)
    place = folder / SIGNATURE_FILE
    if not os.path.lexists(place):
        raise BundleError(str(folder), "is not signed", "Have it signed")
    content = read_signature(folder)
    envelope = read_envelope(content, str(place))
    if not envelope.logged:
        what = "is no keyless signature: it has no entry of a transparency log"
        raise BundleError(str(place), what, "Verify it with --trust or --key")
    try:
        from model_signing import verifying
    except ImportError as cause:
        raise BundleError("model-signing", f"does not load ({cause})", _INSTALL) from cause
    try:
        # A copy of the very bytes that were read: the file may be another one by now.
        with scratch_folder("espalier-verify-") as scratch:
            copy = scratch / SIGNATURE_FILE
            copy.write_bytes(content)
            config = verifying.Config()  # type: ignore[no-untyped-call]
            config.use_sigstore_verifier(identity=identity, oidc_issuer=issuer).verify(folder, copy)
    # Its errors, and those of what it calls, are of many kinds: all mean that nothing was verified.
    except Exception as cause:
        text = " ".join(str(cause).split()) or type(cause).__name__
        fix = "Check the identity and the network; do not use the bundle until it verifies"
        raise BundleError(str(place), f"does not verify ({text:.200})", fix) from cause
    bundle = open_whole(folder)
    if resources_of(envelope.payload, str(place)) != {**bundle.digests, MANIFEST: bundle.manifest_digest}:
        raise BundleError(str(folder), "is signed for other files than its manifest lists", "Fetch the bundle again")
    return bundle
