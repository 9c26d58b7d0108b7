"""A measured bundle in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from devices.agent_text import title_of
from devices.host_costs import host_cost_lines
from devices.quiet import busy_text
from devices.scenarios import scenario_lines
from devices.sustained import sustained_lines
from devices.telemetry.watch import watched_lines

_WIDTH = 10


def bench_text(result: Mapping[str, Any]) -> str:
    """Latency, what stands beside it, what it costs, and the device while it was measured."""
    lines = [title_of(result), *_latency(result), *_cost(result)]
    if "against" in result:
        lines += _against(result)
    for title, found in (("scenarios", result.get("scenarios")), ("sustained", result.get("sustained"))):
        if found:
            lines.append(title)
            lines += _indented(scenario_lines(found) if title == "scenarios" else sustained_lines(found))
            against = result["scenarios_watched"]["findings"] if title == "scenarios" else []
            lines += [f"! meanwhile: {finding['text']}" for finding in against if finding["is_warning"]]
    busy = busy_text(result["load_average_before"])
    found = [f"! {busy}"] if busy else []
    return "\n".join([*lines, "device while measuring", *found, *watched_lines(result["telemetry"])])


def _latency(result: Mapping[str, Any]) -> list[str]:
    latency, spikes, same = result["latency"], result["spikes"], result["same_engine_twice"]
    rows = [(name, _span(latency[f"{name}_ms"], "ms")) for name in ("p50", "p90", "p99")]
    rows.append(("slowest", f"{latency['max_ms']:.4f} ms"))
    share, time_share = 100 * spikes["share"], 100 * spikes["time_share"]
    above = f"above {spikes['threshold_ms']:.4f} ms: {share:.2f} % of queries, {time_share:.1f} % of the time"
    rows.append(("spikes", f"{spikes['count']} {above}; all are in the percentiles"))
    rows.append(("queries", f"{latency['queries']} in {latency['rounds']} rounds, one image each"))
    rows.append(("opened", f"{result['openings']} times in all, as where an engine lies in memory changes its speed"))
    warm = result["warm_up"]
    steady = "" if warm["steady"] else ": NOT steady by then, the figures may be of a device that still warms up"
    rows.append(("warm-up", f"{warm['queries']} queries in {warm['duration_s']:.2f} s{steady}"))
    holds = "a ratio within it tells nothing"
    if not same["low"] <= 1 <= same["high"]:
        holds = "it does NOT hold 1, so the machine was not quiet enough to compare"
    rows.append(("A/A", f"{_span(same, '')}: the same engine twice; {holds}"))
    rows.append(("threads", f"{result['threads']} on CPU {', '.join(map(str, result['pinned_cpus']))}"))
    if "cuda_graph" in result:
        rows.append(("CUDA graph", graph_text(result["cuda_graph"])))
    return _rows(rows)


def graph_text(used: bool) -> str:
    """What latency was taken of, in words."""
    return "used: the query is one launch" if used else "not used: it was not faster, or cannot be captured"


def _cost(result: Mapping[str, Any]) -> list[str]:
    footprint, energy = result["footprint"], result.get("energy")
    rows = [(line[:14].strip(), line[14:].strip()) for line in host_cost_lines(result["host_costs"])[1:-1]]
    rows.append(("copies", host_cost_lines(result["host_costs"])[-1].removeprefix("copies ")))
    cold = f"load {footprint['load_ms']:.1f} ms, first query {footprint['first_query_ms']:.2f} ms, in a fresh process"
    rows.append(("cold start", cold))
    memory = footprint["peak_memory_bytes"] / 1e6, footprint["engine_memory_bytes"] / 1e6
    rows.append(("memory", f"{memory[0]:.1f} MB at the peak, {memory[1]:.1f} MB of it for the engine"))
    for name, gpu in result["memory"]["gpus"].items():
        rows.append((name, f"{gpu['most_mb']:.0f} MB in use at the most, {gpu['before_mb']:.0f} MB before"))
    if energy:
        told = _span(energy["energy_mj"], "mJ") if energy["is_resolved"] else "less than the sensor can tell"
        idle = f"{energy['idle_w']:.2f} W idle subtracted from {energy['power_w']:.2f} W"
        rows.append(("energy", f"{told} an image; {idle}; of {', '.join(energy['of'])}"))
    else:
        rows.append(("energy", "not known: no power sensor"))
    rows.append(("size", f"{result['size_bytes']} bytes"))
    return _rows(rows)


def _against(result: Mapping[str, Any]) -> list[str]:
    other, ratio = result["against"], result["ratio"]
    proven = "" if not ratio["low"] <= 1 <= ratio["high"] else ": no difference proven"
    return [
        f"against {title_of(other)}",
        *_rows(
            [
                ("p50", _span(other["latency"]["p50_ms"], "ms")),
                ("ratio", f"{_span(ratio, '')} times as fast as that, interleaved{proven}"),
            ]
        ),
    ]


def _rows(rows: list[tuple[str, str]]) -> list[str]:
    width = max(_WIDTH, *(len(name) for name, _ in rows))
    return [f"  {name:{width}} {text}" for name, text in rows]


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _span(figure: Mapping[str, float], unit: str) -> str:
    digits = 4 if unit == "ms" else 3
    shown = [f"{figure[key]:.{digits}f}" for key in ("value", "low", "high")]
    return f"{shown[0]}{f' {unit}' if unit else ''}  ({shown[1]} to {shown[2]})"
