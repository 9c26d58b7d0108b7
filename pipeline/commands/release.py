"""`espalier release`: finished runs, judged, signed and packed."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.errors import EXIT_OK, EXIT_REFUSED, BundleError, shown
from devices.trust.options import VARIABLE, named_trust
from pipeline.commands.gate import add_gate_options, deploy_of, judged, own_trust
from pipeline.commands.sign import add_key_options, signer_of

if TYPE_CHECKING:
    from devices.trust.store import Trust
    from exporters.sign import SignConfig
    from pipeline.release.build import ReleaseConfig


def add_command(commands: Any) -> None:
    """The command, for the command line's parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        "release", help="judge runs, and make a signed archive of each when the gate passes all"
    )
    command.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs, one for each device")
    command.add_argument("--version", required=True, dest="release_version", metavar="VERSION", help="of the release")
    add_key_options(command, required=True)
    command.add_argument("--out", type=Path, default=Path("dist"), metavar="DIR", help="folder of releases (dist)")
    command.add_argument(
        "--changelog", type=Path, default=Path("CHANGELOG.md"), metavar="FILE", help="for the notes (CHANGELOG.md)"
    )
    add_gate_options(command)
    command.add_argument(
        "--trust",
        type=Path,
        metavar="FILE",
        help=f"who may have signed --baseline (or in {VARIABLE}; the holder of --key)",
    )
    command.add_argument("--allow-unsigned", action="store_true", help="take a --baseline that nobody signed")
    command.add_argument(
        "--check",
        action="store_true",
        help="before the runs: see that version, key and --baseline can be used, and release nothing",
    )
    command.set_defaults(call=release)


def release(options: argparse.Namespace) -> int:
    """Judge every run, and make a release of them when the gate passes all. What is judged is what is packed."""
    from pipeline.release.build import Product, ReleaseConfig, release_folder, write_release
    from pipeline.release.places import opened_bundle
    from pipeline.release.text import NOT_ASKED, gate_lines

    sign, named = signer_of(options), named_trust(options.trust)
    config = ReleaseConfig(version=options.release_version, out=options.out, sign=sign, changelog=options.changelog)
    last = replace(_who_signed_the_last(options, sign, named), allow_unsigned=options.allow_unsigned)
    if options.check:
        return _check(options.baseline, last, config)
    own = own_trust(named)
    with ExitStack() as stack:
        judges = [stack.enter_context(opened_bundle(run, "evidence", own)) for run in options.runs]
        results = [judged(options, evidence, last) for evidence in judges]
        _require_of_release(options.accept, [result.device for result in results])
        release_folder(results[0].name, config)
        print("\n\n".join("\n".join(gate_lines(result)) for result in results))
        if not all(result.asked for result in results):
            fix = "Set budgets under [gate] in the recipe, or give a --baseline with this device"
            print(f"not released: {NOT_ASKED}. {fix}", file=sys.stderr)
            return EXIT_REFUSED
        if not all(result.passed for result in results):
            print("not released: the gate refused", file=sys.stderr)
            return EXIT_REFUSED
        products = [
            Product(deploy=deploy_of(run, own), evidence=evidence, result=result)
            for run, evidence, result in zip(options.runs, judges, results, strict=True)
        ]
        folder = write_release(products, config)
    print(shown(f"released: {folder}"))
    return EXIT_OK


def _require_of_release(accepted: list[tuple[str, str]], devices: list[str]) -> None:
    """What is accepted for a device that is not released was meant for another. Raises `BundleError`."""
    for device, name in accepted:
        if device and device not in devices:
            what = f"names '{device:.80}', and the runs are for {', '.join(dict.fromkeys(devices))}"
            raise BundleError(f"--accept {device:.80}:{name}", what, "Name one of these, or leave it out")


def _who_signed_the_last(options: argparse.Namespace, sign: SignConfig, named: Trust) -> Trust:
    """Whom the file of trust names; without one, the holder of the key that signs this release."""
    from devices.trust.store import Trust, TrustedKey
    from exporters.keys import public_half

    if named.names or options.baseline is None:
        return named
    if sign.certificate is None:
        key = TrustedKey(name=str(options.key), pem=public_half(options.key, sign.password))
        return Trust(keys=(key,))
    if not options.allow_unsigned:
        what = "is missing: a certificate does not say who may have signed --baseline"
        raise BundleError("--trust", what, "Name the file of trust, or pass --allow-unsigned")
    return named


def _check(baseline: Path | None, trust: Trust, config: ReleaseConfig) -> int:
    """What would stop the release after hours of runs, without them."""
    from exporters.keys import public_half
    from exporters.sign import require_current
    from pipeline.release.build import release_folder, require_version
    from pipeline.release.evidence import last_releases

    require_version(config.version)
    if config.sign.private_key is not None:
        public_half(config.sign.private_key, config.sign.password)
    require_current(config.sign)
    if baseline is not None:
        lasts = last_releases(baseline, trust)
        release_folder(lasts[0].name, config)
        print(shown(f"last release: {baseline}, for {', '.join(last.device for last in lasts)}"))
    return EXIT_OK
