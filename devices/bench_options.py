"""Options of `bench`, for the agent's command and the host's. Starts fast: nothing heavy is imported to parse."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from devices.errors import DeviceError

if TYPE_CHECKING:
    from devices.bench_job import BenchJob
    from devices.scenarios import Scenario, ScenarioConfig

_SCENARIOS = ("single_stream", "multi_stream", "offline", "server")
_LONGEST_S = 24 * 3600.0


def add_bench_options(command: argparse.ArgumentParser, seconds: float) -> None:
    """What is measured, for how long, and beside what; `seconds` is the default of `--seconds`."""
    command.add_argument(
        "--seconds",
        type=in_seconds,
        default=seconds,
        metavar="S",
        help=f"time to measure latency, at most; quick engines need less ({seconds:g})",
    )
    command.add_argument("--against", type=Path, metavar="BUNDLE", help="measure this bundle beside it, interleaved")
    command.add_argument("--sustained", type=_minutes, metavar="MINUTES", help="then work back to back for so long")
    command.add_argument("--power-mode", metavar="NAME", help="mode that the device should be in; it is never switched")
    command.add_argument(
        "--scenarios", metavar="LIST", help=f"MLPerf's, by comma: {', '.join(_SCENARIOS)}; or all of them: all"
    )
    command.add_argument(
        "--min-duration", type=in_seconds, default=10.0, metavar="S", help="of a scenario, at least (10; MLPerf: 600)"
    )
    command.add_argument("--min-queries", type=_count, default=100, metavar="N", help="of a scenario, at least (100)")
    command.add_argument("--offline-samples", type=_count, default=24_576, metavar="N", help="at least (24576)")
    command.add_argument(
        "--target-ms", type=_positive, default=10.0, metavar="MS", help="server: what 99 %% of queries must keep (10)"
    )
    command.add_argument(
        "--rate", type=_rate, metavar="N", help="server: queries a second (the highest that holds is searched)"
    )


def bench_job(options: argparse.Namespace) -> BenchJob:
    """What the options ask for. Raises `DeviceError` for a scenario that there is none of,
    `BundleError` for files of trust that cannot be used."""
    from devices.bench_job import BenchJob
    from devices.trust.options import trust_of

    return BenchJob(
        seconds=options.seconds,
        trust=trust_of(options),
        scenarios=_scenarios(options) if options.scenarios else None,
        sustained_s=options.sustained,
        power_mode=options.power_mode,
    )


def _scenarios(options: argparse.Namespace) -> ScenarioConfig:
    from devices.scenarios import ScenarioConfig

    words = [word.strip() for word in options.scenarios.split(",")]
    chosen: tuple[Scenario, ...] = tuple(name for name in _SCENARIOS if name in words or "all" in words)  # type: ignore[misc]
    unknown = [word for word in words if word not in (*_SCENARIOS, "all")]
    if unknown or not chosen:
        raise DeviceError(
            "--scenarios", f"{options.scenarios!r:.80} is no list of scenarios", f"Known: {', '.join(_SCENARIOS)}, all"
        )
    return ScenarioConfig(
        scenarios=chosen,
        min_duration_s=options.min_duration,
        min_queries=options.min_queries,
        max_duration_s=max(1200.0, 2 * options.min_duration),
        offline_samples=options.offline_samples,
        server_target_ms=options.target_ms,
        server_rate_per_s=options.rate,
    )


def in_seconds(text: str) -> float:
    """A time of an option: above 0 s and at most an hour."""
    return _within(text, 3600.0)


def _minutes(text: str) -> float:
    return 60 * _within(text, _LONGEST_S / 60, 0.05)


def _positive(text: str) -> float:
    return _within(text, 1e9)


def _rate(text: str) -> float:
    # Rarer than that, hardly a query comes before the longest time is over.
    return _within(text, 1e9, 0.01)


def _count(text: str) -> int:
    value = _within(text, 1e9)
    if value != int(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(value)


def _within(text: str, most: float, least: float = 0.0) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    # Written so that "not a number" fails too.
    if not (value >= least and 0 < value <= most):
        raise argparse.ArgumentTypeError(
            f"must be {f'at least {least:g}' if least else 'above 0'} and at most {most:g}"
        )
    return value
