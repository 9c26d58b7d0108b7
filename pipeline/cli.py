"""The command `espalier`: parses, calls, prints. Heavy modules are imported by the command that needs them."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

from devices.errors import (
    EXIT_CODES,
    EXIT_INTERNAL,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_REFUSED,
    DeviceError,
    EspalierError,
)

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
        text = f"{type(error).__name__}: {error}"
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

    run = commands.add_parser("run", help="run a recipe for a device")
    _add_recipe(run)
    run.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (runs/NAME-DEVICE)")
    run.set_defaults(call=_run)

    stages = commands.add_parser("stages", help="show what a recipe would run, and what is stored")
    _add_recipe(stages)
    stages.set_defaults(call=_stages)

    devices = commands.add_parser("devices", help="list devices, show one, or say what this host is")
    what = devices.add_subparsers(dest="what", metavar="list|show|detect")
    devices.set_defaults(call=_devices_list)
    what.add_parser("list", help="list the device profiles").set_defaults(call=_devices_list)
    show = what.add_parser("show", help="show one device profile")
    show.add_argument("name", metavar="NAME")
    show.set_defaults(call=_devices_show)
    what.add_parser("detect", help="say what this host is").set_defaults(call=_devices_detect)

    report = commands.add_parser("report", help="print a run's result and write its page again")
    report.add_argument("run", type=Path, metavar="RUN", help="folder of a run, such as runs/digits-cpu")
    report.set_defaults(call=_report)
    for command in (run, stages, devices, *what.choices.values(), report):
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _add_recipe(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", type=Path, metavar="RECIPE", help="recipe file, such as recipes/digits.toml")
    command.add_argument(
        "--device", default="cpu", metavar="NAME", help="device profile, or the file of one of yours (cpu)"
    )
    command.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="override a key of the recipe"
    )
    command.add_argument("--store", type=Path, default=_STORE, metavar="DIR", help=f"where results are kept ({_STORE})")


def _version_or_help(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if options.version:
        from importlib.metadata import version

        print(f"espalier {version('espalier')}")
        return EXIT_OK
    parser.print_help()
    return EXIT_OK


def _run(options: argparse.Namespace) -> int:
    _require_compress()
    # Before torch loads its OpenMP: threads that spin for long at every barrier make two runs that share the cores 13
    # times slower than one; with this many spins it is 5 times, and one alone is as fast.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    if not sys.warnoptions:
        # Those of libraries are for their authors; python -W shows them.
        warnings.simplefilter("ignore")
    from devices.detect import detect_host
    from devices.engines.select import require_buildable
    from devices.errors import BundleError
    from devices.files import read_json
    from devices.profile import load_profile
    from pipeline.chain import run_chain
    from pipeline.progress import standard_progress
    from pipeline.recipe import read_recipe
    from pipeline.run_folder import check_out, publish
    from pipeline.store import Store
    from pipeline.summary import summary_lines
    from pipeline.work import Work

    recipe = read_recipe(options.recipe, options.overrides)
    profile, host = load_profile(options.device), detect_host()
    require_buildable(profile, host)
    out = options.out or Path("runs", f"{recipe.name}-{profile.name}")
    check_out(out)
    work = Work(recipe, profile, host, _command(options))
    outcome = run_chain(work, Store(options.store), standard_progress())
    publish(work, outcome, out)
    report = read_json(outcome.results["report"].folder / "report.json", BundleError)
    print("\n".join(summary_lines(report, out)))
    print(f"{outcome.wall_s:.1f} s, of which {outcome.step_s:.1f} s in steps that had to run")
    return EXIT_OK if outcome.passed else EXIT_REFUSED


def _stages(options: argparse.Namespace) -> int:
    _require_compress()
    from devices.detect import detect_host
    from devices.profile import load_profile
    from pipeline.chain import stored_steps
    from pipeline.recipe import read_recipe
    from pipeline.store import Store
    from pipeline.work import Work

    recipe = read_recipe(options.recipe, options.overrides)
    work = Work(recipe, load_profile(options.device), detect_host(), _command(options))
    for node, stored in stored_steps(work, Store(options.store)):
        state = f"stored   {stored.seconds:6.1f} s  {stored.digest[:12]}" if stored else "would run"
        print(f"{node.stage:9} {node.name:22} {state}")
    return EXIT_OK


def _devices_list(_: argparse.Namespace) -> int:
    from devices.detect import detect_host, matches
    from devices.profile import load_profile, profile_names

    host = detect_host()
    for name in profile_names():
        profile = load_profile(name)
        here = "  (this host)" if matches(profile, host) else ""
        print(f"{name:22} {profile.title}; {profile.engine.runtime}{here}")
    return EXIT_OK


def _devices_show(options: argparse.Namespace) -> int:
    from devices.describe import profile_lines
    from devices.profile import load_profile

    print("\n".join(profile_lines(load_profile(options.name))))
    return EXIT_OK


def _devices_detect(_: argparse.Namespace) -> int:
    from devices.describe import host_lines
    from devices.detect import detect_host

    print("\n".join(host_lines(detect_host())))
    return EXIT_OK


def _report(options: argparse.Namespace) -> int:
    _require_compress()
    from devices.errors import BundleError
    from devices.files import write_atomic
    from pipeline.report.page import render_page
    from pipeline.run_folder import read_run
    from pipeline.summary import summary_lines

    try:
        report = read_run(options.run)
        page, lines = render_page(report), summary_lines(report, options.run)
    except EspalierError:
        raise
    # Whatever is missing or of another kind in it, somebody or another version wrote it.
    except Exception as cause:
        where = str(options.run / "report.json")
        raise BundleError(where, f"does not hold a whole report ({cause!r:.60})", "Run the recipe again") from cause
    write_atomic(options.run / "report.html", page.encode())
    print("\n".join(lines))
    return EXIT_OK


def _command(options: argparse.Namespace) -> str:
    """The command that runs the same again: without the folders that do not change the result."""
    from shlex import join

    overrides = [part for text in options.overrides for part in ("--set", text)]
    command = join(["espalier", "run", str(options.recipe), "--device", options.device, *overrides])
    # Names of files may be anything but text; what is written down is text.
    return command.encode("utf-8", "backslashreplace").decode()


def _require_compress() -> None:
    from importlib.util import find_spec

    needed = ("pydantic", "torch", "onnx", "onnxscript", "onnxsim", "onnxruntime", "safetensors", "sklearn", "scipy")
    missing = [name for name in (*needed, "PIL", "jinja2") if find_spec(name) is None]
    if missing:
        raise DeviceError(
            "installation",
            f"this is the base install for boards: {', '.join(missing)} missing",
            "Install the host's part: `pip install '.[compress]'` in Espalier's source folder",
        )


if __name__ == "__main__":
    sys.exit(main())
