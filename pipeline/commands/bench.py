"""`espalier bench`: a bundle's engine, measured here or on a board."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.errors import EXIT_OK, DeviceError, shown, shown_lines
from pipeline.commands.boards import named_board, say

if TYPE_CHECKING:
    from devices.fleet import BoardConfig
    from devices.profile import Profile


def bench(options: argparse.Namespace) -> int:
    """Verify a deploy bundle and measure its engine, and replay its evidence where that is given."""
    from devices.agent_text import attack_text
    from devices.bench_text import bench_text
    from devices.files import write_json

    if options.queries and not options.evidence:
        raise DeviceError("--queries", "stands alone, and what is asked is in the evidence", "Give --evidence too")
    named = named_board(options, force_here=True)
    results = _on_board(options, *named) if named else _here(options)
    if options.json:
        write_json(options.json, results)
    if "bench" in results:
        print(shown_lines(bench_text(results["bench"]).split("\n")))
    if "attack" in results:
        print(shown_lines(attack_text(results["attack"]).split("\n")))
    for note in results.get("notes", []):
        print(shown(note))
    return EXIT_OK


def _here(options: argparse.Namespace) -> dict[str, Any]:
    from devices.agent_bench import attack_bundle, bench_bundle
    from devices.agent_build import device_here
    from devices.bench_options import bench_job
    from devices.progress import terminal_progress

    _require_built_there(options)
    if options.device:
        device_here("bench", options.device, options.force)
    job, progress = bench_job(options), terminal_progress("espalier")
    results: dict[str, Any] = {"bench": bench_bundle(options.bundle, options.against, job, progress)}
    if options.evidence:
        results["attack"] = attack_bundle(options.bundle, options.evidence, job.trust, options.queries)
    return results


def _on_board(options: argparse.Namespace, config: BoardConfig, profile: Profile) -> dict[str, Any]:
    from devices.bench_options import bench_job
    from devices.progress import terminal_progress
    from devices.remote.board import Board
    from devices.remote.lines import result_lines

    if profile.engine.served_by == "trtexec":
        return _by_trtexec(options, config, profile)
    _require_built_there(options)
    results, job = dict[str, Any](), bench_job(options)
    with (
        tempfile.TemporaryDirectory(prefix="espalier-bench-") as scratch,
        Board(config, profile, options.force, say) as board,
    ):
        progress = terminal_progress("espalier")
        measured = board.bench(options.bundle, Path(scratch, "bench"), job, options.against, progress)
        results["bench"], results["notes"] = measured.metrics, result_lines(config.name, profile, measured)
        if options.evidence:
            out = Path(scratch, "attack")
            replayed = board.attack(options.bundle, options.evidence, out, job.trust, options.queries)
            results["attack"] = replayed.metrics
    return results


def _require_built_there(options: argparse.Namespace) -> None:
    """Raise `DeviceError` for options of a build, where the bundle's own engine is measured."""
    for name, fix in (("dla_core", "Set engine.dla_core in the recipe"), ("cuda_graph", "Leave it out")):
        if getattr(options, name) not in (None, False):
            what = "is for boards that trtexec serves; here the engine of the bundle is measured as it is"
            raise DeviceError(f"--{name.replace('_', '-')}", what, fix)


def _by_trtexec(options: argparse.Namespace, config: BoardConfig, profile: Profile) -> dict[str, Any]:
    from devices.remote.plain import PlainBoard
    from devices.remote.trtexec_bench import TrtexecJob, bench_by_trtexec, trtexec_bench_lines
    from devices.trust.options import trust_of

    for name in ("evidence", "against", "scenarios", "sustained"):
        if getattr(options, name):
            what = f"cannot be done: a {profile.title} is served by trtexec, which only measures time"
            raise DeviceError(f"--{name.replace('_', '-')}", what, "Leave it out")
    job = TrtexecJob(
        seconds=options.seconds,
        dla_core=options.dla_core,
        cuda_graph=options.cuda_graph,
        power_mode=options.power_mode,
    )
    found = bench_by_trtexec(PlainBoard(config, say), profile, options.bundle, trust_of(options), job, options.force)
    return {"trtexec": found.as_dict(), "notes": trtexec_bench_lines(config.name, profile, found)}
