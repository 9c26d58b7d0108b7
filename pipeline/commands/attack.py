"""`espalier attack`: a bundle's engine against what it was evaluated with, queries, and threats of small devices."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from devices.errors import EXIT_OK, BundleError, DataError, EspalierError, ModelError, shown_lines
from devices.trust.options import add_trust_options, trust_of
from pipeline.commands.needs import require_compress

REPLAY = ("replay", "queries")
HERE = ("patch", "universal", "bit_errors")
STORED = ("differential", "calibration", "membership")
"""Threats that need what no bundle holds: the parent, or training images. Told as the run found them."""
THREATS = (*REPLAY, *HERE, *STORED)
_QUERIES = 200
# What a run may well lack: sets of classes, an adversarial set, enough images, a graph with gradients.
_NOT_ALLOWED = (DataError, ModelError)


def add_options(command: argparse.ArgumentParser) -> None:
    """What the command takes."""
    command.add_argument("target", type=Path, metavar="BUNDLE|RUN", help="deploy bundle, or folder of a run")
    command.add_argument("--evidence", type=Path, metavar="DIR", help="its evidence (the folder beside it)")
    command.add_argument(
        "--threats", type=_names, metavar="LIST", help=f"of {', '.join(THREATS)}, with commas between (all there are)"
    )
    command.add_argument(
        "--samples", type=_count, default=300, metavar="N", help="clean images for patches and bit errors (300)"
    )
    command.add_argument("--queries", type=_count, default=_QUERIES, metavar="N", help=f"queries an image ({_QUERIES})")
    add_trust_options(command)
    command.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    command.set_defaults(call=attack)


def attack(options: argparse.Namespace) -> int:
    """Try everything asked for, and print it threat by threat; of what is not named, all that the bundle allows."""
    require_compress()
    from devices.agent_text import attack_text
    from devices.files import write_json
    from pipeline.report.threats_view import threat_lines

    deploy, evidence = places(options.target, options.evidence)
    stored = _stored(deploy, evidence, options)
    wanted = options.threats or (*REPLAY, *HERE, *(threat["name"] for threat in stored))
    for name in wanted:
        if name in STORED and name not in {threat["name"] for threat in stored}:
            what = f"holds no '{name}', which takes the training images or the parent network"
            raise BundleError(str(evidence), what, f"Run the recipe with [threats] edge = ['{name}']")
    replayed, refused = _replayed(options, deploy, evidence, [name for name in REPLAY if name in wanted])
    here, refused_here = _tried_here(options, deploy, evidence, [name for name in HERE if name in wanted])
    threats = [*here, *(threat for threat in stored if threat["name"] in wanted)]
    refused |= refused_here
    if refused and not threats and replayed is None:
        raise next(iter(refused.values()))
    left_out = [{"threat": name, "why": str(error)} for name, error in refused.items()]
    if options.json:
        attacked = {"attack": replayed} if replayed else {}
        write_json(options.json, attacked | {"threats": threats, "left_out": left_out})
    if replayed:
        print(shown_lines(attack_text(replayed).split("\n")))
    print(shown_lines([*threat_lines(threats), *_left_lines(refused)]))
    return EXIT_OK


def places(target: Path, evidence: Path | None) -> tuple[Path, Path]:
    """Folders of the deploy bundle and of its evidence, from a run's folder or a bundle's. Raises `BundleError`."""
    if not target.is_dir():
        raise BundleError(str(target), "is not a folder", "Give the folder of a run, or of its deploy bundle")
    deploy = target
    if (target / "run.json").is_file():
        deploy = target / "deploy"
        if not deploy.is_dir():
            raise BundleError(str(target), "is a run that the gate refused, so it has no bundle", "See its report")
    found = evidence or deploy.parent / "evidence"
    if not found.is_dir():
        raise BundleError(str(deploy), f"has no evidence beside it ({found})", "Name it: --evidence DIR")
    return deploy, found


def _replayed(
    options: argparse.Namespace, deploy: Path, evidence: Path, names: list[str]
) -> tuple[dict[str, Any] | None, dict[str, EspalierError]]:
    """The replay, with queries where they are allowed, and what is not allowed, which is raised if it was named."""
    from devices.agent_bench import attack_bundle

    refused: dict[str, EspalierError] = {}
    # Queries come with a replay; where there can be none, the replay alone is left.
    for name in reversed(names):
        try:
            asked = options.queries if name == "queries" else 0
            return dict(attack_bundle(deploy, evidence, trust_of(options), asked)), refused
        except _NOT_ALLOWED as error:
            if options.threats:
                raise
            refused[name] = error
    return None, refused


def _tried_here(
    options: argparse.Namespace, deploy: Path, evidence: Path, names: list[Any]
) -> tuple[list[dict[str, Any]], dict[str, EspalierError]]:
    """What was tried, and what is not allowed, which is raised if it was named."""
    if not names:
        return [], {}
    from devices.detect import detect_host
    from pipeline.threats.edge.on_bundle import BundleAttack, attack_graph

    host, trust = detect_host(), trust_of(options)
    found: list[dict[str, Any]] = []
    refused: dict[str, EspalierError] = {}
    # Each by itself: what one needs, such as a twin of the graph, others do without.
    for name in names:
        config = BundleAttack(threats=(name,), samples=options.samples)
        try:
            with tempfile.TemporaryDirectory(prefix="espalier-attack-") as scratch:
                tried = attack_graph(deploy, evidence, trust, config, host, Path(scratch))
        except _NOT_ALLOWED as error:
            if options.threats:
                raise
            refused[name] = error
        else:
            found += [threat.as_dict() | {"lines": []} for threat in tried]
    return found, refused


def _left_lines(refused: Mapping[str, EspalierError]) -> list[str]:
    """One line for each reason."""
    reasons = dict.fromkeys(str(error) for error in refused.values())
    names = {why: ", ".join(name for name, error in refused.items() if str(error) == why) for why in reasons}
    return [f"not tried: {of}. {why}" for why, of in names.items()]


def _stored(deploy: Path, evidence: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """What the run found of the threats that cannot be tried on a bundle. Raises `BundleError` for that of another."""
    from devices.agent_bench import require_same_engine
    from devices.bundle import open_bundle
    from pipeline.threats.report import read_threats

    trust = trust_of(options)
    proven = open_bundle(evidence, "evidence", trust)
    require_same_engine(open_bundle(deploy, "deploy", trust), proven)
    return [threat for threat in read_threats(proven) if threat["name"] in STORED]


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    unknown = [name for name in names if name not in THREATS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(THREATS)}")
    return tuple(dict.fromkeys(names))


def _count(text: str) -> int:
    value = int(text) if text.isascii() and text.isdecimal() else 0
    if not 1 <= value <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 1,000,000")
    return value
