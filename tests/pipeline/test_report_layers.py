"""Trade-offs, layers under the roofline, sensitivity and provenance on the report page."""

from __future__ import annotations

import re
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.errors import EXIT_OK, BundleError
from devices.files import write_json
from pipeline.cli import main
from pipeline.report.layer_times_view import read_layer_times
from pipeline.report.layers_view import layers_view, sensitivity_views
from pipeline.report.plot_bars import plot_bars
from pipeline.report.plot_latency import plot_latency
from pipeline.report.plot_rows import Row
from pipeline.report.plot_tradeoff import Candidate, engine_candidates, front_note, on_front, tradeoff_plots
from pipeline.report.provenance_view import provenance_tree
from pipeline.report.scatter import Point, plot_scatter
from pipeline.report.svg import linear_axis
from tests.pipeline.example_parts import layer_times
from tests.pipeline.example_report import example_report
from tests.pipeline.example_run import grown_report, write_run


def _candidate(size_bytes: int, latency_ms: float | None, clean: float, robust: float | None) -> Candidate:
    def interval(value: float) -> dict[str, float]:
        return {"value": value, "low": max(0.0, value - 0.1), "high": min(1.0, value + 0.1)}

    return Candidate(
        name=f"{size_bytes} bytes",
        engine="dense-fp32",
        size_bytes=size_bytes,
        latency_ms=latency_ms,
        predicted=False,
        clean=interval(clean),
        robust=None if robust is None else interval(robust),
        samples=100,
    )


_CANDIDATES = st.lists(
    st.builds(
        _candidate,
        st.integers(1, 4),
        st.sampled_from([None, 1.0, 2.0, 3.0]),
        st.sampled_from([0.2, 0.5, 0.9]),
        st.sampled_from([None, 0.1, 0.4]),
    ),
    min_size=1,
    max_size=8,
)


@given(_CANDIDATES)
def test_whoever_is_not_on_the_front_is_beaten_by_one_that_is(candidates: list[Candidate]) -> None:
    def goods(item: Candidate) -> tuple[float, ...]:
        latency = float("-inf") if item.latency_ms is None else -item.latency_ms
        return -item.size_bytes, latency, item.clean["value"], item.robust["value"] if item.robust else -1.0

    front = on_front(candidates)
    assert any(front)
    best = [goods(item) for item, is_on in zip(candidates, front, strict=True) if is_on]
    for item, is_on in zip(candidates, front, strict=True):
        own = goods(item)
        beaten = any(other != own and all(a >= b for a, b in zip(other, own, strict=True)) for other in best)
        assert beaten != is_on


def test_the_front_weighs_all_four_figures() -> None:
    base = _candidate(100, 1.0, 0.9, 0.5)
    worse = _candidate(101, 1.0, 0.9, 0.5)
    assert on_front([base, worse]) == [True, False]
    for better in (
        replace(worse, size_bytes=99),
        replace(worse, latency_ms=0.9),
        replace(worse, clean=_candidate(1, 1, 0.91, 0.5).clean),
        replace(worse, robust=_candidate(1, 1, 0.9, 0.51).robust),
    ):
        assert on_front([base, better])[1]
    assert "100 bytes." in front_note([base, worse], example_report())


def test_engines_of_a_report_are_set_against_each_other() -> None:
    report = example_report()
    candidates = engine_candidates(report)
    assert [item.latency_ms for item in candidates] == [
        engine["latency"]["p50_ms"]["value"] for engine in report["engines"]
    ]
    latency, size = tradeoff_plots(candidates, report)
    assert latency.title == "Robust accuracy against latency"
    assert size.title == "Robust accuracy against engine size"
    assert "compressed, INT8: 36.0 kB, p50 0.750 ms, clean 97.5 %, robust 70.5 %, on the Pareto front" in latency.svg
    assert tradeoff_plots(candidates[:1], report) == []


def test_one_engine_without_robustness_turns_the_plot_to_clean_accuracy() -> None:
    report = example_report(attacked=False)
    assert tradeoff_plots(engine_candidates(report), report)[0].title == "Clean accuracy against latency"


def test_names_of_points_in_one_place_are_not_written_over_each_other() -> None:
    points = [Point(name=f"engine {i}", words=f"engine {i}", x=5.0, y=5.0, style="dense full") for i in range(9)]
    axis = linear_axis(0, 10)
    svg = plot_scatter("crowd", points, axis, axis, ("x", "y")).svg
    assert svg.count('class="strong"') == 2
    assert all(svg.count(f"<title>engine {i}</title>") == 1 for i in range(9))


def test_links_are_there_for_a_screen_reader() -> None:
    axis = linear_axis(0, 10)
    point = Point(name="a", words="a: good", x=1, y=1, style="dense full", href="runs/a%20b/report.html")
    svg = plot_scatter("linked", [point], axis, axis, ("x", "y")).svg
    assert '<a href="runs/a%20b/report.html" aria-label="a: good. Opens its report">' in svg
    assert 'role="group"' in svg
    assert 'role="img"' in plot_scatter("not", [replace(point, href="")], axis, axis, ("x", "y")).svg


def test_a_layer_lies_where_its_prediction_puts_it() -> None:
    report = grown_report()
    view = layers_view(report)
    assert view is not None
    assert view.plot is not None
    assert [row.intensity for row in view.rows] == ["0.400", "8.00", "160"]
    assert "0.0600 ms, PREDICTED" in view.sentence
    assert "PREDICTED, not measured" in view.plot.note
    # Two roofs of one precision: the flat one and the slope, and each in tera operations.
    assert "10.0 TOPS in INT8" in view.plot.note
    assert view.plot.svg.count('class="reference"') == 2
    # The bottom of the axis is the least rate; conv2 does 2 * 4e6 MACs in 0.03 ms: 0.267 TOPS of 15 at the top.
    heights = [float(y) for y in re.findall(r'y="([\d.]+)" overflow', view.plot.svg)]
    rates = [2 * layer["macs"] / layer["latency_ms"] / 1e9 for layer in report["layer_costs"]["layers"]]
    low, high = min(rates) / 1.5, 15.0
    expected = [300 * (1 - _log_share(rate, low, high)) for rate in rates]
    assert heights == pytest.approx(expected, abs=0.01)


def _log_share(value: float, low: float, high: float) -> float:
    return (log(value) - log(low)) / (log(high) - log(low))


def test_without_rates_nothing_is_called_predicted() -> None:
    report = grown_report()
    costs = report["layer_costs"] | {"roofs": {}, "bandwidth_gb_s": None, "why": "the device's profile has no rates"}
    costs["layers"] = [layer | {"latency_ms": None, "mostly": None} for layer in costs["layers"]]
    view = layers_view(report | {"layer_costs": costs})
    assert view is not None
    assert view.plot is not None
    assert not view.predicted
    assert "No time is predicted: the device's profile has no rates." in view.sentence
    assert "PREDICTED" not in view.plot.svg + view.plot.note + view.sentence
    assert view.plot.svg.count('class="reference"') == 0
    assert layers_view(example_report()) is None


def test_sensitivity_names_the_worst_layer_first_and_what_stays() -> None:
    (view,) = sensitivity_views(grown_report())
    assert [row.layer for row in view.rows] == ["conv2", "conv1", "conv0"]
    assert [row.kept for row in view.rows] == [True, False, False]
    assert "Layers that stay in higher precision: conv2." in view.sentence
    assert sensitivity_views(example_report()) == []


def test_bars_keep_long_names_and_say_how_many_are_left_out() -> None:
    rows = [Row(name=f"block.{i}." + "x" * 80, style="dense full", value=30.0 - i, text=f"{30 - i}") for i in range(30)]
    plot = plot_bars("bars", rows, "unit", "are shorter")
    assert plot.note == "The other 6 are shorter."
    assert plot.svg.count("<rect") == 24
    assert f"<title>block.23.{'x' * 80}: 7</title>" in plot.svg
    widths = [float(width) for width in re.findall(r'width="([\d.]+)%" height="12"', plot.svg)]
    assert widths == pytest.approx([100 * row.value / 30 for row in rows[:24]], abs=0.01)


def test_every_result_stands_once_below_what_it_was_made_of() -> None:
    tree = provenance_tree(grown_report())
    assert tree is not None
    for name in ("dense", "simplified dense", "engine compressed-int8", "engine dense-fp32", "measurements"):
        assert len(re.findall(f">{name}</span>", tree)) == 1
    # The engine that ships and what led to it, and nothing else.
    assert re.findall(r'class="strong">([^<]+)<', tree) == ["dense", "simplified dense", "engine compressed-int8"]
    assert tree.index("engine compressed-int8") < tree.index("measurements") < tree.index("engine dense-fp32</span>")
    assert "measure, with engine dense-fp32 " in tree
    assert tree.count("<ul") == tree.count("</ul>") == 4
    assert provenance_tree(example_report()) is None


def test_percentiles_stand_with_their_intervals() -> None:
    report: dict[str, Any] = example_report(("dense-fp32",))
    plot = plot_latency(report)
    assert "p50 3.00 ms (2.90 to 3.10)" in plot.svg
    assert plot.svg.count('class="band dense full"') == 2


_TIMES = layer_times(grown_report())


def test_measured_times_of_layers_stand_on_the_page_alone(tmp_path: Path) -> None:
    write_run(tmp_path / "run", grown_report())
    told = (tmp_path / "run" / "report.json").read_bytes()
    write_json(tmp_path / "times.json", _TIMES)
    assert main(["report", str(tmp_path / "run"), "--layers", str(tmp_path / "times.json")]) == EXIT_OK
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
    assert "Median query without it: 0.0500 ms (0.0400 to 0.0600); all nodes 0.0300 ms" in page
    assert page.index('conv0</th><td>Conv</td><td class="number">0.0100 ms</td><td class="number">20.0 %') > 0
    assert (tmp_path / "run" / "report.json").read_bytes() == told
    assert main(["report", str(tmp_path / "run")]) == EXIT_OK
    assert "Measured times" not in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"layers": []}, "does not hold times of layers"),
        (layer_times(grown_report(), "another"), "is of another on cpu, and the run is example on cpu"),
        (_TIMES | {"p50_ms": None}, "does not hold whole times"),
        (_TIMES | {"engine": "other-int8"}, "is of 'other-int8' of .* bytes, which is no engine of the run"),
        (_TIMES | {"size_bytes": 3}, "of 3 bytes, which is no engine of the run"),
    ],
)
def test_times_of_something_else_are_refused(tmp_path: Path, content: dict[str, Any], said: str) -> None:
    write_json(tmp_path / "times.json", content)
    with pytest.raises(BundleError, match=said):
        read_layer_times(tmp_path / "times.json", grown_report())
