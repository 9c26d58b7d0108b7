"""`espalier release`: finished runs, judged, signed and packed."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from devices.errors import EXIT_OK, EXIT_REFUSED, BundleError
from pipeline.commands.gate import judged


def release(options: argparse.Namespace) -> int:
    """Judge every run, and make a release of them when the gate passes all."""
    from exporters.sign import SignConfig
    from pipeline.commands.sign import PASSWORD
    from pipeline.release.build import Product, ReleaseConfig, release_folder, write_release
    from pipeline.release.places import opened_bundle
    from pipeline.release.text import gate_lines

    key = SignConfig(private_key=options.key, password=os.environ.get(PASSWORD) or None)
    config = ReleaseConfig(version=options.version_name, out=options.out, sign=key, changelog=options.changelog)
    results = [judged(options, run) for run in options.runs]
    release_folder(results[0].name, config)
    print("\n\n".join("\n".join(gate_lines(result)) for result in results))
    if not all(result.passed for result in results):
        print("not released: the gate refused", file=sys.stderr)
        return EXIT_REFUSED
    with ExitStack() as stack:
        products = [
            Product(
                deploy=stack.enter_context(opened_bundle(run, "deploy", UNSIGNED)),
                evidence=stack.enter_context(opened_bundle(run, "evidence", UNSIGNED)),
                result=result,
            )
            for run, result in zip(options.runs, results, strict=True)
        ]
        folder = write_release(products, config)
    print(f"released: {folder}")
    return EXIT_OK
