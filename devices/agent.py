"""`espalier-agent`: what runs on the board. Standard library, numpy and the engine runtime only."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_OK, EspalierError, shown, shown_lines
from devices.memory_fault import memory_fault

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_CACHE = "~/.cache/espalier"


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `espalier-agent`; returns the exit code."""
    options = _parser().parse_args(arguments)
    # ONNX Runtime writes to the user's folders and sends, from 1.32 on and on Linux too, unless it is told not to.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        if options.command in ("serve", "stage"):
            code: int = options.call(options)
            return code
        result = options.call(options)
        _print(json.dumps(result, indent=2) if options.json else shown_lines(options.as_text(result).split("\n")))
    except EspalierError as error:
        if options.debug:
            raise
        print(f"espalier-agent: {error.kind}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        if options.debug:
            raise
        if short := memory_fault(error):
            print(f"espalier-agent: {short.kind}: {short}", file=sys.stderr)
            return short.exit_code
        fault = shown(" ".join(f"{type(error).__name__}: {error}".split()))
        print(f"espalier-agent: internal fault ({fault}). Repeat with --debug", file=sys.stderr)
        return EXIT_INTERNAL
    return EXIT_OK


def _print(text: str) -> None:
    try:
        # A terminal that cannot show a character gets its escape.
        encoding = sys.stdout.encoding or "utf-8"
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        # Who reads has seen enough (`| head`). Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    from devices import agent_text
    from devices.bench_options import in_seconds

    parser = argparse.ArgumentParser(prog="espalier-agent", description="Measure shipped engines on this device.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    detect = commands.add_parser("detect", help="say what this device is")
    detect.set_defaults(call=_detect, as_text=agent_text.detect_text)
    build = commands.add_parser("build", help="build an engine for this device from an ONNX file")
    build.add_argument("onnx", type=Path, metavar="ONNX", help="ONNX file")
    build.add_argument("out", type=Path, metavar="DIR", help="folder for the engine")
    build.add_argument(
        "--dla-core", type=int, choices=range(2), help="run on this DLA core, the GPU taking what the DLA does not"
    )
    build.add_argument(
        "--cache", default=_CACHE, metavar="DIR", help=f"folder that keeps timings of TensorRT's kernels ({_CACHE})"
    )
    _add_device(build)
    build.set_defaults(call=_build, as_text=agent_text.build_text)
    _add_bundles(commands)
    calibrate = commands.add_parser("calibrate", help="time every ONNX file of a folder on this device")
    calibrate.add_argument("probes", type=Path, metavar="DIR", help="folder of ONNX files, such as layers by channels")
    calibrate.add_argument("--seconds", type=in_seconds, default=10.0, metavar="S", help="time for all together (10)")
    _add_device(calibrate)
    calibrate.set_defaults(call=_calibrate, as_text=agent_text.calibrate_text)
    _add_work_for_hosts(commands)
    for name, command in commands.choices.items():
        if name not in ("stage", "serve"):
            command.add_argument("--json", action="store_true", help="print JSON")
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", metavar="NAME", help="device profile, or the file of one (what this device is)")
    command.add_argument("--force", action="store_true", help="go on even if this is another device")
    command.add_argument(
        "--precision",
        choices=("fp32", "fp16", "bf16", "int8", "fp8"),
        default="fp32",
        help="what the graph computes in; TensorRT has to know (fp32)",
    )


def _add_bundles(commands: Subparsers) -> None:
    """What is done with bundles, each of which is verified first."""
    from devices import agent_text
    from devices.agent_verify import verified_text
    from devices.bench_options import add_bench_options
    from devices.query_option import add_queries
    from devices.trust.options import add_trust_options

    unpacks = commands.add_parser("unpack", help="unpack an archive of a release, and verify what is in it")
    unpacks.add_argument("archive", type=Path, metavar="ARCHIVE", help="archive of a bundle, NAME.tar.gz")
    unpacks.add_argument("out", type=Path, metavar="DIR", help="folder for the bundle; a new one")
    add_trust_options(unpacks)
    unpacks.set_defaults(call=_unpack, as_text=verified_text)
    verifies = commands.add_parser("verify", help="verify a bundle, and say who signed it")
    verifies.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of a bundle")
    add_trust_options(verifies)
    verifies.set_defaults(call=_verify, as_text=verified_text)
    bench = commands.add_parser("bench", help="verify a deploy bundle and measure its engine here")
    add_bench_options(bench, seconds=4.0)
    bench.set_defaults(call=_bench, as_text=_bench_text)
    attack = commands.add_parser("attack", help="replay the evaluation sets of an evidence bundle through the engine")
    attack.set_defaults(call=_attack, as_text=agent_text.attack_text)
    layers = commands.add_parser("layers", help="say where the time of a deploy bundle's engine goes, layer by layer")
    layers.add_argument("--most", type=_count, metavar="N", help="print the N longest layers only")
    layers.set_defaults(call=_layers, as_text=agent_text.layers_text)
    for command in (bench, attack, layers):
        command.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of a deploy bundle")
        add_trust_options(command)
    attack.add_argument("evidence", type=Path, metavar="EVIDENCE", help="folder of its evidence bundle")
    add_queries(attack)


def _add_work_for_hosts(commands: Subparsers) -> None:
    """What is done in the folder that other hosts work in."""
    from devices import agent_text

    clean = commands.add_parser("clean", help="remove the folder in which work for other hosts is kept")
    clean.set_defaults(call=_clean, as_text=agent_text.clean_text)
    stage = commands.add_parser("stage", help="run the job in a folder (for programs)")
    stage.add_argument("folder", type=Path, metavar="JOB_DIR", help="folder with job.json; takes out/ and result.json")
    stage.set_defaults(call=_stage)
    serve = commands.add_parser("serve", help="answer a host over standard input and output (for programs)")
    serve.add_argument("--who", default="somebody", metavar="NAME", help="whom others see at work here")
    serve.set_defaults(call=_serve)
    for command in (clean, serve):
        command.add_argument("--cache", default=_CACHE, metavar="DIR", help=f"the folder ({_CACHE})")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= 10**6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 1000000")
    return int(text)


def _detect(options: argparse.Namespace) -> dict[str, object]:
    from devices.detect import detect_host
    from devices.recognise import recognise

    host = detect_host()
    if not options.json:
        # The text looks for them itself, and to read all profiles twice is half the time.
        return {"host": host.as_dict()}
    return {"profiles": [found.profile.name for found in recognise(host)], "host": host.as_dict()}


def _build(options: argparse.Namespace) -> dict[str, object]:
    from devices.agent_build import BuildJob, build_here

    config = BuildJob(precision=options.precision, dla_core=options.dla_core)
    return build_here(options.onnx, options.out, options.device, options.force, config, options.cache)


def _unpack(options: argparse.Namespace) -> dict[str, object]:
    from devices.agent_verify import unpack_bundle
    from devices.trust.options import trust_of

    return unpack_bundle(options.archive, options.out, trust_of(options))


def _verify(options: argparse.Namespace) -> dict[str, object]:
    from devices.agent_verify import verify_bundle
    from devices.trust.options import trust_of

    return verify_bundle(options.bundle, trust_of(options))


def _bench(options: argparse.Namespace) -> dict[str, object]:
    from devices.agent_bench import bench_bundle
    from devices.bench_options import bench_job
    from devices.progress import terminal_progress

    return bench_bundle(options.bundle, options.against, bench_job(options), terminal_progress("espalier-agent"))


def _bench_text(result: dict[str, object]) -> str:
    from devices.bench_text import bench_text

    return bench_text(result)


def _attack(options: argparse.Namespace) -> dict[str, object]:
    from devices.agent_bench import attack_bundle
    from devices.trust.options import trust_of

    return attack_bundle(options.bundle, options.evidence, trust_of(options), options.queries)


def _layers(options: argparse.Namespace) -> dict[str, object]:
    from devices.agent_layers import layers_of_bundle
    from devices.trust.options import trust_of

    return layers_of_bundle(options.bundle, trust_of(options), options.most, _say_busy)


def _calibrate(options: argparse.Namespace) -> dict[str, object]:
    from devices.agent_calibrate import CalibrateJob, calibrate_here

    config = CalibrateJob(seconds=options.seconds, precision=options.precision)
    return calibrate_here(options.probes, options.device, options.force, config, _say_busy)


def _clean(options: argparse.Namespace) -> dict[str, object]:
    from devices.agent_lock import clean

    return clean(options.cache)


def _stage(options: argparse.Namespace) -> int:
    """Events and the error as JSON lines on standard output, which libraries cannot write to meanwhile."""
    from devices.agent_errors import error_content
    from devices.agent_process import die_with_parent
    from devices.agent_stage import run_stage, throttled

    die_with_parent()
    sys.dont_write_bytecode = True
    with os.fdopen(os.dup(1), "w") as output:
        os.dup2(2, 1)

        def tell(content: dict[str, Any]) -> None:
            print(json.dumps(content), file=output, flush=True)

        try:
            run_stage(options.folder, throttled(tell))
        except Exception as error:
            tell({"error": error_content(error)})
            raise
    return EXIT_OK


def _serve(options: argparse.Namespace) -> int:
    from devices.agent_lock import session
    from devices.agent_serve import serve

    with session(options.cache) as opened:
        return serve(opened, options.who)


def _say_busy() -> None:
    print("espalier-agent: another measurement has the machine; waiting for it", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
