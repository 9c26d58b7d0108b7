"""`espalier keygen`, `espalier sign`, `espalier verify`."""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.errors import EXIT_OK, BundleError, shown, shown_lines
from devices.trust.options import add_trust_options

if TYPE_CHECKING:
    from devices.bundle import Bundle
    from exporters.sign import SignConfig

PASSWORD = "ESPALIER_KEY_PASSWORD"
_BUNDLE = "folder of a bundle, or of a run: both of its bundles"


def add_commands(commands: Any) -> None:
    """The three commands, for the command line's parser."""
    key = commands.add_parser("keygen", help="make a key for signing bundles, and the file of who is trusted")
    key.add_argument("out", type=Path, metavar="NAME", help="writes NAME.key, NAME.pub and NAME.trust.toml")
    key.add_argument("--days", type=_days, default=365, metavar="N", help="it counts for so long (365)")
    key.set_defaults(call=keygen)
    signs = commands.add_parser("sign", help="sign a bundle, or the bundles of a run")
    signs.add_argument("bundle", type=Path, metavar="BUNDLE", help=_BUNDLE)
    add_key_options(signs, required=False)
    signs.add_argument("--keyless", action="store_true", help="by Sigstore: asks for an identity, needs the network")
    signs.set_defaults(call=sign)
    verifies = commands.add_parser("verify", help="verify bundles, the bundles of a run, or archives of a release")
    verifies.add_argument("bundle", type=Path, nargs="+", metavar="BUNDLE", help=f"{_BUNDLE}; or an archive")
    verifies.add_argument("--explain", action="store_true", help="walk from what ships back to the source weights")
    add_trust_options(verifies)
    verifies.add_argument("--identity", metavar="NAME", help="of a keyless signature: who must have signed")
    verifies.add_argument("--issuer", metavar="URL", help="of a keyless signature: who vouches for that name")
    verifies.set_defaults(call=verify)


def add_key_options(command: argparse.ArgumentParser, required: bool) -> None:
    """`--key`, `--certificate`, `--chain`: who signs."""
    command.add_argument(
        "--key",
        type=Path,
        required=required,
        metavar="FILE",
        help=f"private key; its password in {PASSWORD}",
    )
    command.add_argument("--certificate", type=Path, metavar="FILE", help="of that key, where others trust a root")
    command.add_argument(
        "--chain", type=Path, action="append", default=[], metavar="FILE", help="between it and the root; may repeat"
    )


def signer_of(options: argparse.Namespace, keyless: bool = False) -> SignConfig:
    """Who signs, as these options and the environment say."""
    from exporters.sign import SignConfig

    return SignConfig(
        private_key=options.key,
        password=os.environ.get(PASSWORD) or None,
        certificate=options.certificate,
        chain=tuple(options.chain),
        keyless=keyless,
    )


def keygen(options: argparse.Namespace) -> int:
    """Make a key for signing, and the file of trust of those who verify."""
    from exporters.keys import make_key

    path: Path = options.out
    last_day = datetime.now(timezone.utc).date() + timedelta(days=options.days)
    key = make_key(path.parent, path.name, os.environ.get(PASSWORD) or None, last_day)
    kept = "encrypted" if os.environ.get(PASSWORD) else f"not encrypted; set {PASSWORD} to encrypt it"
    lines = [
        f"{path}.key         signs; keep it secret ({kept})",
        f"{path}.pub         verifies",
        f"{path}.trust.toml  says that it counts until {last_day}; give both to those who verify",
        f"key {key.key_id}",
    ]
    print(shown_lines(lines))
    return EXIT_OK


def sign(options: argparse.Namespace) -> int:
    """Sign bundles, or the bundles of runs."""
    from exporters.sign import sign_bundle
    from pipeline.release.places import bundles_of

    config = signer_of(options, options.keyless)
    for folder in bundles_of(options.bundle):
        kind = sign_bundle(folder, config)
        print(shown(f"signed  {folder} ({kind})"))
    return EXIT_OK


def verify(options: argparse.Namespace) -> int:
    """Verify bundles, those of runs and those in archives; say how they came about where that is asked."""
    from devices.agent_verify import whole_text
    from pipeline.release.places import bundle_folders

    opened: list[Bundle] = []
    with ExitStack() as stack:
        for place in options.bundle:
            for folder in stack.enter_context(bundle_folders(place)):
                bundle, signer = _verified(folder, options)
                opened.append(bundle)
                named = folder if folder.is_relative_to(place) else place
                print(whole_text(named, bundle, signer))
        if options.explain:
            print(shown_lines(_explained(opened)))
    return EXIT_OK


def _verified(folder: Path, options: argparse.Namespace) -> tuple[Bundle, str]:
    """The bundle, and who signed it."""
    from devices.agent_verify import signer_text
    from devices.bundle import open_any
    from devices.trust.options import trust_of

    if options.identity or options.issuer:
        from exporters.keyless import verify_keyless

        if options.trust or options.key or options.allow_unsigned:
            what = "stands beside --trust, --key or --allow-unsigned, and would make nothing of them"
            raise BundleError("--identity", what, "Give one or the other")

        bundle = verify_keyless(folder, options.identity, options.issuer)
        return bundle, f"signed by {options.identity} (keyless, {options.issuer})"
    bundle = open_any(folder, trust_of(options))
    return bundle, signer_text(bundle)


def _explained(bundles: list[Bundle]) -> list[str]:
    """How what ships came about, from the statements in the evidence."""
    from pipeline.attest.explain import explain

    by_kind = {str(bundle.manifest.get("kind")): bundle for bundle in bundles}
    if len(by_kind) < len(bundles) or "evidence" not in by_kind:
        what = "needs one evidence bundle, and the deploy bundle that it proves"
        raise BundleError("--explain", what, "Give a run, or both archives of a release")
    return explain(by_kind["evidence"], by_kind.get("deploy"))


def _days(text: str) -> int:
    days = int(text)
    if not 0 < days <= 36_500:
        raise ValueError
    return days
