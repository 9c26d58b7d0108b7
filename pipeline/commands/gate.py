"""`espalier gate`: a run against its budgets and against the last release."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.errors import EXIT_OK, EXIT_REFUSED
from devices.trust.options import add_trust_options, trust_of

if TYPE_CHECKING:
    from devices.bundle import Bundle
    from devices.trust.store import Trust
    from pipeline.release.gate import GateResult

NAMES = ("accuracy", "robust_accuracy", "speedup", "size")
NEW = "new"
"""Accepted of a device that the last release was not made for; its budgets are judged alone."""


def add_gate_options(command: argparse.ArgumentParser) -> None:
    """The last release, and what is taken of a loss against it."""
    command.add_argument(
        "--baseline", type=Path, metavar="RUN", help="the last release: its folder, or a run, or its evidence"
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
        "--accept",
        action="append",
        default=[],
        type=_accepted,
        metavar="[DEVICE:]NAME",
        help=f"take this whatever became of it, of one device or all: {', '.join(NAMES)}; DEVICE:{NEW} takes a "
        "device that the last release does not have; may be repeated",
    )


def add_command(commands: Any) -> None:
    """The command, for the command line's parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        "gate", help="judge a run for release: its budgets, and what got worse since the last release"
    )
    command.add_argument("run", type=Path, metavar="RUN", help="folder of a run, or its evidence bundle")
    add_gate_options(command)
    add_trust_options(command)
    for option, text in (("--junit", "JUnit XML"), ("--markdown", "Markdown, for a pull request"), ("--json", "JSON")):
        command.add_argument(option, type=Path, metavar="FILE", help=f"write what was found there, as {text}")
    command.set_defaults(call=gate)


def gate(options: argparse.Namespace) -> int:
    """Judge a run, and write what was found where it is asked for."""
    from devices.files import write_atomic, write_json
    from pipeline.release.junit import gate_junit
    from pipeline.release.text import gate_lines, gate_markdown

    result = _judged_run(options)
    if options.junit:
        write_atomic(options.junit, gate_junit(result))
    if options.markdown:
        write_atomic(options.markdown, gate_markdown(result).encode())
    if options.json:
        write_json(options.json, result.as_dict())
    print("\n".join(gate_lines(result)))
    return EXIT_OK if result.passed else EXIT_REFUSED


def _judged_run(options: argparse.Namespace) -> GateResult:
    """Raises `BundleError` for what cannot be judged, and when what would ship is not there or not whole."""
    from devices.archive import is_archive
    from pipeline.release.places import is_run, opened_bundle

    run, trust = options.run, trust_of(options)
    # An archive came from elsewhere, whoever says so.
    with opened_bundle(run, "evidence", trust if is_archive(run) else own_trust(trust)) as evidence:
        result = judged(options, evidence, trust)
        if is_run(run) and all(budget.met for budget in result.budgets):
            deploy_of(run, own_trust(trust))
    return result


def judged(options: argparse.Namespace, evidence: Bundle, trust: Trust) -> GateResult:
    """What the gate says of a run by its evidence and these options; `trust` is in who signed the last release's.

    Raises `BundleError` for what cannot be judged.
    """
    from pipeline.release.evidence import last_release, run_figures
    from pipeline.release.gate import judge_release
    from pipeline.release.regression import RegressionConfig

    figures = run_figures(evidence)
    config = RegressionConfig(
        max_accuracy_drop=options.max_accuracy_drop,
        max_robust_accuracy_drop=options.max_robust_accuracy_drop,
        max_slowdown=options.max_slowdown,
        max_growth=options.max_growth,
        accept=tuple(name for device, name in options.accept if device in ("", figures.device)),
    )
    new = (figures.device, NEW) in options.accept
    last = last_release(options.baseline, figures, trust, new) if options.baseline else None
    return judge_release(figures, last, config, new_device=options.baseline is not None and last is None)


def own_trust(trust: Trust) -> Trust:
    """In what this machine made itself: it need not be signed yet, but a signature that it has must hold."""
    return replace(trust, allow_unsigned=True)


def deploy_of(run: Path, trust: Trust) -> Bundle:
    """What would ship of a run, verified. Raises `BundleError` when it is not there or not whole."""
    from devices.bundle import open_bundle
    from devices.errors import BundleError

    deploy = run / "deploy"
    if not deploy.exists():
        raise BundleError(str(deploy), "is missing, and it is what would ship", "Run the recipe again")
    return open_bundle(deploy, "deploy", trust)


def _accepted(text: str) -> tuple[str, str]:
    """The device, empty for all, and the name of a figure."""
    device, _, name = text.rpartition(":")
    if name == NEW and not device:
        raise argparse.ArgumentTypeError(f"{NEW} is of one device: DEVICE:{NEW}")
    if name not in (*NAMES, NEW):
        raise argparse.ArgumentTypeError(f"{name!r:.40} is none of {', '.join(NAMES)}, nor DEVICE:{NEW}")
    return device, name


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError
    return value
