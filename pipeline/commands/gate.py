"""`espalier gate`: a run against its budgets and against the last release."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from devices.errors import EXIT_OK, EXIT_REFUSED

if TYPE_CHECKING:
    from pipeline.release.gate import GateResult

NAMES = ("accuracy", "robust_accuracy", "speedup", "size")


def add_gate_options(command: argparse.ArgumentParser) -> None:
    """The last release, and what is taken of a loss against it."""
    command.add_argument(
        "--baseline", type=Path, metavar="RUN", help="run or evidence archive of the last release, to compare with"
    )
    for option, unit, text in (
        ("--max-accuracy-drop", "POINTS", "accuracy that may be lost since the last release (0)"),
        ("--max-robust-accuracy-drop", "POINTS", "robust accuracy that may be lost (0)"),
        ("--max-slowdown", "PERCENT", "of the speed-up that may be lost (5)"),
        ("--max-growth", "PERCENT", "by which the engine may grow (0)"),
    ):
        default = 5.0 if option == "--max-slowdown" else 0.0
        command.add_argument(option, type=_share, default=default, metavar=unit, help=text)
    command.add_argument(
        "--accept", action="append", default=[], choices=NAMES, help="take this whatever became of it; may be repeated"
    )


def gate(options: argparse.Namespace) -> int:
    """Judge a run, and write what was found where it is asked for."""
    from devices.files import write_atomic, write_json
    from pipeline.release.junit import gate_junit
    from pipeline.release.text import gate_lines, gate_markdown

    result = judged(options, options.run)
    if options.junit:
        write_atomic(options.junit, gate_junit(result))
    if options.markdown:
        write_atomic(options.markdown, gate_markdown(result).encode())
    if options.json:
        write_json(options.json, result.as_dict())
    print("\n".join(gate_lines(result)))
    return EXIT_OK if result.passed else EXIT_REFUSED


def judged(options: argparse.Namespace, run: Path) -> GateResult:
    """What the gate says of a run, by these options. Raises `BundleError` for what cannot be judged."""
    from pipeline.release.evidence import run_figures
    from pipeline.release.gate import judge_release
    from pipeline.release.places import opened_bundle
    from pipeline.release.regression import RegressionConfig

    config = RegressionConfig(
        max_accuracy_drop=options.max_accuracy_drop,
        max_robust_accuracy_drop=options.max_robust_accuracy_drop,
        max_slowdown=options.max_slowdown,
        max_growth=options.max_growth,
        accept=tuple(options.accept),
    )
    last = None
    if options.baseline is not None:
        with opened_bundle(options.baseline, "evidence") as bundle:
            last = run_figures(bundle)
    with opened_bundle(run, "evidence") as bundle:
        return judge_release(run_figures(bundle), last, config)


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError
    return value
