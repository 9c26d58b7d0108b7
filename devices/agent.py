"""`espalier-agent`: what runs on the board. Standard library, numpy and the engine runtime only."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from devices.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_OK, EspalierError


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `espalier-agent`; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        result = options.call(options)
        _print(json.dumps(result, indent=2) if options.json else options.as_text(result))
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
        fault = " ".join(f"{type(error).__name__}: {error}".split())
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

    parser = argparse.ArgumentParser(prog="espalier-agent", description="Measure shipped engines on this device.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    bench = commands.add_parser("bench", help="verify a deploy bundle and measure its engine here")
    bench.add_argument("--seconds", type=_seconds, default=4.0, metavar="S", help="time to measure latency (4)")
    bench.set_defaults(call=_bench, as_text=agent_text.bench_text)
    attack = commands.add_parser("attack", help="replay the evaluation sets of an evidence bundle through the engine")
    attack.set_defaults(call=_attack, as_text=agent_text.attack_text)
    detect = commands.add_parser("detect", help="say what this device is")
    detect.set_defaults(call=_detect, as_text=agent_text.detect_text)
    for command in (bench, attack):
        command.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of a deploy bundle")
        command.add_argument("--allow-unsigned", action="store_true", help="use a bundle that nobody signed")
    attack.add_argument("evidence", type=Path, metavar="EVIDENCE", help="folder of its evidence bundle")
    for command in (bench, attack, detect):
        command.add_argument("--json", action="store_true", help="print JSON")
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError("must be above 0 and at most 3600")
    return value


def _bench(options: argparse.Namespace) -> dict[str, object]:
    import tempfile

    import numpy as np

    from devices.bundle import open_bundle
    from devices.classifier import ENGINE_INFO_PATH, ENGINE_PATH, load_verified, read_engine_info
    from devices.detect import detect_host
    from devices.engine_files import ENGINE_FILE, INFO_FILE
    from devices.files import write_atomic
    from devices.footprint import measure_footprint
    from devices.latency import LatencyConfig, measure_interleaved, measuring_alone, pinned, summarize

    bundle = open_bundle(options.bundle, "deploy", options.allow_unsigned)
    host = detect_host()
    with tempfile.TemporaryDirectory(prefix="espalier-agent-") as scratch:
        # The verified bytes are what the fresh process loads, not the bundle's files again.
        write_atomic(Path(scratch, ENGINE_FILE), bundle.read(ENGINE_PATH))
        write_atomic(Path(scratch, INFO_FILE), bundle.read(ENGINE_INFO_PATH))
        with measuring_alone(_say_busy), pinned(read_engine_info(bundle).threads) as cpus:
            engine = load_verified(bundle, host).engine
            image = np.random.default_rng(0).random((1, *engine.info.input_shape), dtype=np.float32)
            queries = {"engine": engine.bind(image)}
            samples = measure_interleaved(queries, LatencyConfig(duration_s=options.seconds))
            footprint = measure_footprint(Path(scratch), repeats=3)
        size_bytes = Path(scratch, ENGINE_FILE).stat().st_size
    return {
        **_origin(bundle),
        "engine": engine.info.as_dict(),
        "host": host.as_dict(),
        "pinned_cpus": list(cpus),
        "latency": summarize(samples["engine"]).as_dict(),
        "footprint": footprint.as_dict(),
        "size_bytes": size_bytes,
    }


def _require_same_engine(bundle: Any, evidence: Any) -> None:
    """Evidence of another network has other samples, or other classes, and its figures would mean nothing."""
    from devices.errors import BundleError

    node = f"engine {bundle.manifest.get('engine')}"
    built, judged = (manifest.get("stages", {}).get(node) for manifest in (bundle.manifest, evidence.manifest))
    if built != judged:
        raise BundleError(
            str(evidence.folder),
            f"is not the evidence of the engine in {bundle.folder}",
            "Give the one of the same run",
        )


def _say_busy() -> None:
    print("espalier-agent: another measurement has the machine; waiting for it", file=sys.stderr)


def _attack(options: argparse.Namespace) -> dict[str, object]:
    from devices.attack import set_rows
    from devices.bundle import open_bundle
    from devices.classifier import load_verified
    from devices.detect import detect_host
    from devices.robustness import INDEX_FILE, accuracy, mean_iou_of, read_sets, replay, require_fit
    from devices.scoring import scorer_of

    bundle = open_bundle(options.bundle, "deploy", options.allow_unsigned)
    evidence = open_bundle(options.evidence, "evidence", options.allow_unsigned)
    _require_same_engine(bundle, evidence)
    index = f"sets/{INDEX_FILE}"
    place = str(evidence.folder / index)
    sets = read_sets(evidence.read_json(index), lambda name: evidence.read(f"sets/{name}"), place)
    scorer_of(sets.scoring)
    host = detect_host()
    engine = load_verified(bundle, host).engine
    require_fit(sets, engine.info)
    found = replay(engine.run_all, sets)
    iou = mean_iou_of(found, "clean")
    return {
        **_origin(bundle),
        "evidence": str(evidence.folder),
        "engine": engine.info.as_dict(),
        "host": host.as_dict(),
        "samples": len(sets.labels),
        "task": sets.scoring.kind,
        "clean": accuracy(found.scores["clean"]).as_dict(),
        "worst_case": accuracy(found.worst_case).as_dict() if found.has_attacks else None,
        **({"mean_iou": iou.as_dict()} if iou else {}),
        "sets": set_rows(found),
    }


def _detect(_: argparse.Namespace) -> dict[str, object]:
    from devices.detect import detect_host, matches
    from devices.profile import load_profile, profile_names

    host = detect_host()
    names = [name for name in profile_names() if matches(load_profile(name), host)]
    return {"profiles": names, "host": host.as_dict()}


def _origin(bundle: Any) -> dict[str, object]:
    manifest = bundle.manifest
    return {"bundle": str(bundle.folder), "name": manifest.get("name"), "device": manifest.get("device")}


if __name__ == "__main__":
    sys.exit(main())
