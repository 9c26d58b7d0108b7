"""The command `espalier`: parses, calls, prints. Heavy modules are imported by the command that needs them."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from devices.bench_options import add_bench_options, in_seconds
from devices.errors import (
    EXIT_CODES,
    EXIT_INTERNAL,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EspalierError,
    shown,
)
from devices.memory_fault import memory_fault
from devices.query_option import add_queries
from devices.trust.options import add_trust_options
from pipeline.commands import agent as commands_agent
from pipeline.commands import attack as commands_attack
from pipeline.commands import bench as commands_bench
from pipeline.commands import devices as commands_devices
from pipeline.commands import gate as commands_gate
from pipeline.commands import matrix as commands_matrix
from pipeline.commands import pages as commands_pages
from pipeline.commands import predict as commands_predict
from pipeline.commands import release as commands_release
from pipeline.commands import report as commands_report
from pipeline.commands import reproduce as commands_reproduce
from pipeline.commands import run as commands_run
from pipeline.commands import schema as commands_schema
from pipeline.commands import sign as commands_sign
from pipeline.commands import threats as commands_threats
from pipeline.commands.boards import add_board_options
from pipeline.commands.device_option import add_device

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_STORE = Path(".espalier", "store")


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `espalier`; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.call(options)
        sys.stdout.flush()
        return code
    except EspalierError as error:
        if options.debug:
            raise
        print(f"espalier: {error.kind}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nespalier: interrupted; the same command goes on from here", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`espalier ... | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except Exception as error:
        if options.debug:
            raise
        if short := memory_fault(error):
            print(f"espalier: {short.kind}: {short}", file=sys.stderr)
            return short.exit_code
        text = shown(f"{type(error).__name__}: {error}")
        print(f"espalier: internal fault ({text}). Repeat with --debug and report what it prints", file=sys.stderr)
        return EXIT_INTERNAL


def _parser() -> argparse.ArgumentParser:
    codes = "\n".join(f"  {code:3}  {text}" for code, text in EXIT_CODES)
    parser = argparse.ArgumentParser(
        prog="espalier",
        description="Compress a trained vision network for a device, and measure latency and robustness\n"
        "of the very engine that ships.",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    parser.set_defaults(call=lambda options: _version_or_help(options, parser), debug=False)

    _add_run(commands)
    stages = commands.add_parser("stages", help="show what a recipe would run, and what is stored")
    _add_recipe(stages)
    stages.set_defaults(call=commands_run.stages)

    devices = commands.add_parser("devices", help="list devices, show one, or say what this host is")
    devices.set_defaults(call=commands_devices.list_profiles)
    what = devices.add_subparsers(dest="what", metavar="list|show|detect|check|template|calibrate")
    _add_devices(what)

    predict = commands.add_parser("predict", help="predict the latency of an ONNX network on a device not at hand")
    predict.add_argument("onnx", type=Path, metavar="ONNX", help="network, quantized or not")
    add_device(predict, required=True)
    predict.add_argument("--json", type=Path, metavar="FILE", help="write the prediction there too")
    predict.set_defaults(call=commands_predict.predict)
    bench = commands.add_parser("bench", help="measure a bundle's engine here, or on a board over ssh")
    _add_bench(bench)
    attack = commands.add_parser("attack", help="attack a bundle's engine here, threat by threat")
    commands_attack.add_options(attack)
    _add_scan(commands)
    defend = commands.add_parser("defend", help="remove what may carry a backdoor from a recipe's network")
    _add_defend(defend)

    commands_sign.add_commands(commands)
    for module in (commands_agent, commands_gate, commands_release, commands_reproduce, commands_schema):
        module.add_command(commands)
    report = commands.add_parser("report", help="print a run's result and write its page again")
    report.add_argument("run", type=Path, metavar="RUN", help="folder of a run, such as runs/digits-cpu")
    report.add_argument(
        "--layers", type=Path, metavar="FILE", help="show these times too, of `espalier-agent layers RUN/deploy --json`"
    )
    report.set_defaults(call=commands_report.report)
    commands_pages.add_commands(commands)
    for command in (*commands.choices.values(), *what.choices.values()):
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _add_run(commands: Subparsers) -> None:
    run = commands.add_parser("run", help="run a recipe for a device")
    _add_recipe(run)
    run.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (runs/NAME-DEVICE)")
    run.add_argument("--mlflow", metavar="URI", help="log the run with MLflow there, such as sqlite:///mlflow.db")
    run.set_defaults(call=commands_run.run)

    matrix = commands.add_parser("matrix", help="run recipes on all boards of a fleet, side by side")
    matrix.add_argument("recipes", type=Path, nargs="+", metavar="RECIPE", help="recipe files")
    matrix.add_argument("--fleet", type=Path, required=True, metavar="FILE", help="file of boards")
    matrix.add_argument("--board", action="append", default=[], metavar="NAME", help="only this board; may be repeated")
    matrix.add_argument(
        "--out", type=Path, default=Path("runs"), metavar="DIR", help="folder of the runs' folders (runs)"
    )
    _add_results(matrix)
    matrix.set_defaults(call=commands_matrix.matrix)


def _add_scan(commands: Subparsers) -> None:
    scan = commands.add_parser("scan", help="look for signs of a backdoor in a recipe's networks")
    scan.add_argument("target", type=Path, metavar="RECIPE|RUN", help="recipe file, or folder of a run")
    add_device(scan, "device profile (cpu, or that of the run)")
    _add_results(scan)
    scan.add_argument(
        "--sources", type=Path, default=Path(), metavar="DIR", help="where the own files of a run's recipe are (here)"
    )
    add_trust_options(scan)
    scan.add_argument("--json", type=Path, metavar="FILE", help="write the findings there too")
    scan.set_defaults(call=commands_threats.scan)


def _add_recipe(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", type=Path, metavar="RECIPE", help="recipe file, such as recipes/digits.toml")
    add_device(command, "device profile (cpu)")
    add_board_options(command)
    command.add_argument(
        "--full",
        action="store_true",
        help="try all of the robustness suite that the recipe allows: AutoAttack, queries, corruptions, scans, threats",
    )
    _add_results(command)


def _add_results(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="override a key of the recipe"
    )
    command.add_argument("--store", type=Path, default=_STORE, metavar="DIR", help=f"where results are kept ({_STORE})")


def _add_devices(what: Subparsers) -> None:
    listing = what.add_parser("list", help="list the device profiles")
    listing.add_argument("--markdown", action="store_true", help="as the tables of docs/devices.md")
    listing.set_defaults(call=commands_devices.list_profiles)
    show = what.add_parser("show", help="show one device profile")
    show.add_argument("name", metavar="NAME", help="of a profile, or the file of one of yours")
    show.set_defaults(call=commands_devices.show)
    detect = what.add_parser("detect", help="say what this host is, or a board")
    add_device(detect, "what the board has to be")
    add_board_options(detect)
    detect.set_defaults(call=commands_devices.detect)
    check = what.add_parser("check", help="say what is wrong or doubtful in a profile of yours")
    check.add_argument("file", type=Path, metavar="FILE", help="profile, NAME.toml")
    check.set_defaults(call=commands_devices.check)
    template = what.add_parser("template", help="write a profile to start from")
    template.add_argument("--out", type=Path, required=True, metavar="FILE", help="profile to write, NAME.toml")
    template.set_defaults(call=commands_devices.template)
    calibrate = what.add_parser("calibrate", help="measure layers by channels, and write a profile of one's own")
    add_device(calibrate, "profile to start from (cpu)")
    add_board_options(calibrate)
    calibrate.add_argument("--out", type=Path, required=True, metavar="FILE", help="profile to write, NAME.toml")
    calibrate.add_argument("--precision", default="fp32", choices=("fp32", "fp16", "int8"), help="of the layers (fp32)")
    calibrate.add_argument("--seconds", type=in_seconds, default=15.0, metavar="S", help="time for all probes (15)")
    calibrate.set_defaults(call=commands_predict.calibrate)


def _add_bench(command: argparse.ArgumentParser) -> None:
    command.add_argument("bundle", type=Path, metavar="BUNDLE", help="deploy bundle, such as runs/digits-cpu/deploy")
    add_device(command, "what the machine has to be: another is refused")
    add_board_options(command)
    command.add_argument("--evidence", type=Path, metavar="DIR", help="replay this evidence bundle through it too")
    add_queries(command)
    add_bench_options(command, seconds=6.0)
    command.add_argument(
        "--dla-core", type=int, choices=(0, 1), metavar="N", help="board of trtexec: build for this core of the DLA"
    )
    command.add_argument("--cuda-graph", action="store_true", help="board of trtexec: launch queries as a CUDA graph")
    add_trust_options(command)
    command.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    command.set_defaults(call=commands_bench.bench)


def _add_defend(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", type=Path, metavar="RECIPE", help="recipe file, such as recipes/digits.toml")
    add_device(command, default="cpu")
    _add_results(command)
    command.add_argument("--method", required=True, choices=commands_threats.METHODS, help="how")
    command.add_argument(
        "--clean-samples",
        type=commands_threats.count,
        required=True,
        metavar="N",
        help="test images that the defence may look at",
    )
    command.add_argument(
        "--max-drop",
        type=commands_threats.points,
        default=10.0,
        metavar="POINTS",
        help="of clean accuracy on them, at the bad end (10)",
    )
    command.add_argument("--trigger", metavar="KIND|FILE", help="for the evaluation alone: a kind of the kit, or .npz")
    command.add_argument("--target", metavar="CLASS", help="class that the trigger is for")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the network that is left")
    command.set_defaults(call=commands_threats.defend)


def _version_or_help(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if options.version:
        from importlib.metadata import version

        print(f"espalier {version('espalier')}")
        return EXIT_OK
    parser.print_help()
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
