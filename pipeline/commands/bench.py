"""`espalier bench`: a bundle's engine, measured here or on a board."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.errors import EXIT_OK, DeviceError

if TYPE_CHECKING:
    from devices.fleet import BoardConfig
    from devices.profile import Profile


def bench(options: argparse.Namespace) -> int:
    """Verify a deploy bundle and measure its engine, and replay its evidence where that is given."""
    from devices.agent_text import attack_text, bench_text
    from devices.files import write_json

    results = _on_board(options) if options.host or options.fleet else _here(options)
    if options.json:
        write_json(options.json, results)
    if "bench" in results:
        print(bench_text(results["bench"]))
    if "attack" in results:
        print(attack_text(results["attack"]))
    for note in results.get("notes", []):
        print(note)
    return EXIT_OK


def _here(options: argparse.Namespace) -> dict[str, Any]:
    from devices.agent_bench import attack_bundle, bench_bundle
    from devices.agent_build import device_here

    if options.device:
        device_here("bench", options.device, options.force)
    unsigned = options.allow_unsigned
    results: dict[str, Any] = {
        "bench": bench_bundle(options.bundle, unsigned, options.seconds, lambda: _say("waiting for who measures here"))
    }
    if options.evidence:
        results["attack"] = attack_bundle(options.bundle, options.evidence, unsigned)
    return results


def _on_board(options: argparse.Namespace) -> dict[str, Any]:
    from devices.fleet import board_of, read_fleet
    from devices.profile import load_profile
    from devices.remote.board import Board
    from devices.remote.lines import result_lines

    if options.host and options.fleet:
        raise DeviceError("--host", "stands beside --fleet, and each names a board", "Give one of them")
    config: BoardConfig
    if options.fleet:
        if not options.board:
            raise DeviceError("--board", "is missing; the fleet's file has several", "Name one of its boards")
        config = read_fleet(options.fleet).board(options.board)
    else:
        if not options.device:
            raise DeviceError("--device", "is missing; it says what the board has to be", "Name its profile")
        config = board_of(options.host, options.device)
    profile = load_profile(options.device or config.device)
    if profile.engine.served_by == "trtexec":
        return _by_trtexec(options, config, profile)
    unsigned, results = options.allow_unsigned, dict[str, Any]()
    with (
        tempfile.TemporaryDirectory(prefix="espalier-bench-") as scratch,
        Board(config, profile, options.force, _say) as board,
    ):
        measured = board.bench(options.bundle, Path(scratch, "bench"), options.seconds, unsigned)
        results["bench"], results["notes"] = measured.metrics, result_lines(config.name, profile, measured)
        if options.evidence:
            replayed = board.attack(options.bundle, options.evidence, Path(scratch, "attack"), unsigned)
            results["attack"] = replayed.metrics
    return results


def _by_trtexec(options: argparse.Namespace, config: BoardConfig, profile: Profile) -> dict[str, Any]:
    from devices.remote.plain import PlainBoard
    from devices.remote.trtexec_bench import bench_by_trtexec, trtexec_bench_lines

    if options.evidence:
        what = f"cannot be replayed: a {profile.title} is served by trtexec, which only measures time"
        raise DeviceError("--evidence", what, "Leave it out")
    found = bench_by_trtexec(
        PlainBoard(config), profile, options.bundle, options.allow_unsigned, options.seconds, options.force
    )
    return {"trtexec": found.as_dict(), "notes": trtexec_bench_lines(config.name, profile, found)}


def _say(text: str) -> None:
    print(text, file=sys.stderr)
