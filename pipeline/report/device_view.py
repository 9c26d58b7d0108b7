"""The device while it was measured, and what stands beside pure inference, as rows of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from devices.bench_text import graph_text
from devices.scenarios import scenario_lines
from devices.sustained import level_lines
from pipeline.report.figures import milliseconds, significant
from pipeline.report.record_view import Fact

_Figures = Mapping[str, Any]
_HIDDEN = ("throttle.", "energy.")


def device_findings(report: _Figures) -> list[str]:
    """What speaks against the figures: a clock that is years off, a device that was slowed or drifted."""
    board, telemetry = report.get("board"), report.get("telemetry")
    notes = list(board["notes"]) if board else []
    return notes + [finding["text"] for finding in telemetry["findings"]] if telemetry else notes


def device_facts(report: _Figures) -> list[Fact]:
    """Where it was measured, its mode, clocks, temperatures and power, and what is not known of it."""
    board, telemetry = report.get("board"), report.get("telemetry")
    facts = [Fact("board", f"{board['name']}, over ssh")] if board else []
    if not telemetry:
        return facts
    before = telemetry["before"]
    if before["power_mode"]:
        facts.append(Fact("power mode", f"{before['power_mode']['name']} (by {before['power_mode']['source']})"))
    if before["jetson_clocks"] is not None:
        facts.append(Fact("jetson_clocks", "in force" if before["jetson_clocks"] else "not in force"))
    for name, figure in telemetry["figures"].items():
        if not name.startswith(_HIDDEN):
            shown = [significant(figure[key]) for key in ("mean", "least", "most")]
            facts.append(Fact(name, f"{shown[0]} {figure['unit']} ({shown[1]} to {shown[2]})"))
    wall_clock = before["wall_clock"]
    facts.append(Fact("date, by the device", f"{wall_clock['utc']}{': cannot be right' * bool(wall_clock['doubt'])}"))
    return facts + [Fact(name, f"not known: {why}") for name, why in telemetry["absent"].items()]


def beside_inference(report: _Figures) -> list[Fact]:
    """Of the engine that was judged: copies, preprocessing, scenarios, minutes of work."""
    engine: _Figures = next((each for each in report["engines"] if each["name"] == report["shipped"]), {})
    costs = engine.get("host_costs")
    facts = []
    if costs:
        share = 100 * costs["copies_share"]["value"]
        facts.append(Fact("inference, in place", milliseconds(costs["inference"]["p50_ms"]["value"])))
        copied = milliseconds(costs["with_copies"]["p50_ms"]["value"])
        facts.append(Fact("with copies in and out", f"{copied}, {significant(share)} % more"))
        if costs["preprocess"]:
            facts.append(Fact("preprocessing of a frame", milliseconds(costs["preprocess"]["p50_ms"]["value"])))
    warm = engine.get("warm_up")
    if warm:
        steady = "" if warm["steady"] else "; NOT steady by then"
        facts.append(Fact("warm-up", f"{warm['queries']:,} queries in {significant(warm['duration_s'])} s{steady}"))
    if "cuda_graph" in engine:
        facts.append(Fact("CUDA graph", graph_text(engine["cuda_graph"])))
    for found in engine.get("scenarios", []):
        lines = scenario_lines([found])
        facts.append(Fact(f"scenario {lines[0][:14].strip()}", "; ".join(line[14:].strip() for line in lines)))
    against = [row["text"] for row in engine.get("scenarios_watched", {}).get("findings", []) if row["is_warning"]]
    if against:
        facts.append(Fact("the device during scenarios", "; ".join(against)))
    if engine.get("sustained"):
        facts.append(Fact("sustained", "; ".join(line.strip() for line in level_lines(engine["sustained"]))))
    return facts
