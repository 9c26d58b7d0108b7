"""`espalier-agent`: what runs on the board. Standard library, numpy and the engine runtime only."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from devices.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_OK, EspalierError


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `espalier-agent`; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        result = options.call(options)
    except EspalierError as error:
        if options.debug:
            raise
        print(f"espalier-agent: {error.kind}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001
        if options.debug:
            raise
        print(f"espalier-agent: internal fault ({type(error).__name__}: {error}). Repeat with --debug", file=sys.stderr)
        return EXIT_INTERNAL
    print(json.dumps(result, indent=2) if options.json else _as_text(result))
    return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="espalier-agent", description="Measure shipped engines on this device.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    bench = commands.add_parser("bench", help="verify a deploy bundle and measure its engine here")
    bench.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of a deploy bundle")
    bench.add_argument("--allow-unsigned", action="store_true", help="use a bundle that nobody signed")
    bench.add_argument("--seconds", type=_positive, default=4.0, metavar="S", help="time to measure latency (4)")
    bench.set_defaults(call=_bench)
    detect = commands.add_parser("detect", help="say what this device is")
    detect.set_defaults(call=_detect)
    for command in (bench, detect):
        command.add_argument("--json", action="store_true", help="print JSON")
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError("must be above 0 and at most 3600")
    return value


def _bench(options: argparse.Namespace) -> dict[str, object]:
    import tempfile

    import numpy as np

    from devices.bundle import open_bundle
    from devices.classifier import ENGINE_INFO_PATH, ENGINE_PATH, load_verified
    from devices.detect import detect_host
    from devices.engine_files import ENGINE_FILE, INFO_FILE
    from devices.footprint import measure_footprint
    from devices.latency import LatencyConfig, measure_interleaved, pinned, summarize

    bundle = open_bundle(options.bundle, "deploy", options.allow_unsigned)
    host = detect_host()
    with tempfile.TemporaryDirectory(prefix="espalier-agent-") as scratch:
        # The verified bytes are what the fresh process loads, not the bundle's files again.
        Path(scratch, ENGINE_FILE).write_bytes(bundle.read(ENGINE_PATH))
        Path(scratch, INFO_FILE).write_bytes(bundle.read(ENGINE_INFO_PATH))
        threads = bundle.read_json(ENGINE_INFO_PATH)["threads"]
        with pinned(threads) as cpus:
            engine = load_verified(bundle, host).engine
            image = np.random.default_rng(0).random((1, *engine.info.input_shape), dtype=np.float32)
            queries = {"engine": engine.bind(image)}
            samples = measure_interleaved(queries, LatencyConfig(duration_s=options.seconds))
            footprint = measure_footprint(Path(scratch), repeats=3)
    return {
        "bundle": str(options.bundle),
        "name": bundle.manifest.get("name"),
        "device": bundle.manifest.get("device"),
        "engine": engine.info.as_dict(),
        "host": host.as_dict(),
        "pinned_cpus": list(cpus),
        "latency": summarize(samples["engine"]).as_dict(),
        "footprint": footprint.as_dict(),
        "size_bytes": (options.bundle / ENGINE_PATH).stat().st_size,
    }


def _detect(options: argparse.Namespace) -> dict[str, object]:
    from devices.detect import detect_host, matches
    from devices.profile import load_profile, profile_names

    host = detect_host()
    names = [name for name in profile_names() if matches(load_profile(name), host)]
    return {"profiles": names, "host": host.as_dict()}


def _as_text(result: dict[str, Any]) -> str:
    if "latency" not in result:
        rows = {"profiles": ", ".join(result["profiles"]) or "none matches", **result["host"]}
        return "\n".join(f"{name:20} {_plain(value)}" for name, value in rows.items())
    latency, footprint = result["latency"], result["footprint"]
    lines = [f"{result['name']} for {result['device']}, on {result['host']['cpu_model']}"]
    for name in ("p50", "p90", "p99"):
        figure = latency[f"{name}_ms"]
        lines.append(f"  {name}        {figure['value']:.4f} ms  ({figure['low']:.4f} to {figure['high']:.4f})")
    lines.append(f"  queries    {latency['queries']} in {latency['rounds']} rounds, one image each")
    lines.append(f"  threads    {result['engine']['threads']} on CPU {', '.join(map(str, result['pinned_cpus']))}")
    lines.append(f"  load       {footprint['load_ms']:.1f} ms, first query {footprint['first_query_ms']:.2f} ms")
    memory = footprint["peak_memory_bytes"] / 1e6, footprint["engine_memory_bytes"] / 1e6
    lines.append(f"  memory     {memory[0]:.1f} MB at the peak, {memory[1]:.1f} MB of it for the engine")
    lines.append(f"  size       {result['size_bytes']} bytes")
    return "\n".join(lines)


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
