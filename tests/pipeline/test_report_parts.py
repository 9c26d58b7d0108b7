"""Parts of the report page: figures as text, axes, elements, and the recipe as TOML."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from devices.attack import summarize
from devices.outcome import Outcome
from devices.robustness import replay
from devices.telemetry.watch import WatchConfig, watching
from pipeline.report import attack_words, figures
from pipeline.report.device_view import beside_inference, device_facts, device_findings
from pipeline.report.page import render_page
from pipeline.report.svg import element, label, linear_axis, log_axis
from pipeline.report.toml_text import toml_text
from pipeline.summary import summary_lines
from tests.devices.parts import build_sets, random_answers
from tests.devices.telemetry.trees import expand
from tests.pipeline.example_report import example_report

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib
from devices.detect import detect_host
from devices.profile import load_profile
from pipeline.recipe import read_recipe
from pipeline.report.data import _board
from pipeline.work import RunBoard, Work
from tests import drill


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.046241, "0.0462"), (0.9999, "1.00"), (5.19, "5.19"), (-1.519, "-1.52"), (12345.6, "12,346")],
)
def test_significant(value: float, text: str) -> None:
    assert figures.significant(value) == text


@pytest.mark.parametrize(
    ("value", "samples", "text"),
    [(1.0, 360, "100.0"), (0.99951, 360, "99.95"), (0.0, 360, "0.0"), (0.0001, 360, "0.01"), (0.5, 10_000, "50.00")],
)
def test_a_share_is_only_called_all_or_none_when_it_is(value: float, samples: int, text: str) -> None:
    assert figures.share(value, samples) == text


@pytest.mark.parametrize(
    ("value", "text"), [(999, "999 bytes"), (36_031, "36.0 kB"), (999_990, "1.00 MB"), (None, "not measured")]
)
def test_size(value: int | None, text: str) -> None:
    assert figures.size(value) == text


@pytest.mark.parametrize(("value", "text"), [(200_000, "200,000"), (1_234_567, "1,234,567"), (0.125, "0.125")])
def test_a_limit_keeps_every_digit(value: float, text: str) -> None:
    assert figures.limit(value) == text


def test_no_difference_has_no_sign() -> None:
    assert [figures.points(value) for value in (-1e-9, 0.0, 0.0028, -0.0028)] == ["0.00", "0.00", "+0.28", "-0.28"]


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_a_linear_axis_holds_its_range(low: float, width: float) -> None:
    axis = linear_axis(low, low + width)
    slack = 1e-6 * (abs(low) + width)
    assert axis.low <= low + slack
    assert axis.high >= low + width - slack
    assert 2 <= len(axis.ticks) <= 12


@given(st.floats(1e-6, 1e6), st.floats(1.01, 1e6))
def test_a_log_axis_has_at_least_two_named_ticks_inside(low: float, times: float) -> None:
    axis = log_axis(low, low * times)
    named = [value for value, text in axis.ticks if text]
    assert len(named) >= 2
    assert all(low <= value <= low * times for value in named)
    assert axis.share(low) == 0
    assert math.isclose(axis.share(low * times), 1)


def test_an_element_escapes_what_is_text_and_keeps_what_is_markup() -> None:
    made = element("g", '<script>"', Markup("<b/>"), aria_label='"><x>', class_="a", x=1.0)
    assert made == '<g aria-label="&#34;&gt;&lt;x&gt;" class="a" x="1">&lt;script&gt;&#34;<b/></g>'


def test_a_long_label_is_cut_and_whole_when_pointed_at() -> None:
    name = "layer" * 30
    made = label(name, 0.5, 10)
    assert f"<title>{name}</title>" in made
    assert len(made) < 2 * len(name) + 60


_KEYS = st.text(min_size=1, max_size=8)
_LEAVES = st.one_of(st.text(max_size=12), st.booleans(), st.integers(-(2**53), 2**53), st.floats(-1e9, 1e9))
_VALUES = st.one_of(_LEAVES, st.lists(_LEAVES, max_size=3), st.dictionaries(_KEYS, _LEAVES, max_size=3))
_SECTIONS = st.dictionaries(_KEYS, _VALUES, max_size=4)


@given(st.dictionaries(_KEYS, st.one_of(_LEAVES, _SECTIONS), max_size=5))
def test_toml_comes_back_as_it_was(values: dict[str, object]) -> None:
    assert tomllib.loads(toml_text(values)) == values


def test_toml_leaves_out_what_has_no_value() -> None:
    assert toml_text({"a": None, "t": {"b": None, "c": (1, 2)}}) == "[t]\nc = [1, 2]\n"


def test_a_device_that_was_slowed_is_said_with_its_mode_clocks_and_power(tmp_path: Path) -> None:
    root = expand("orin-nano", tmp_path)
    with watching(WatchConfig(root=root, rate_hz=50, power_mode="25W")) as found:
        (root / "sys/class/thermal/cooling_device3/cur_state").write_text("1\n")
    telemetry = found[0].as_dict()
    board = {"name": "kitchen", "notes": ["the board's clock is 53.9 years behind this machine's"]}
    report: dict[str, Any] = {"board": board, "telemetry": telemetry}
    findings = device_findings(report)
    assert findings[0] == board["notes"][0]
    assert findings[1].startswith("gpu-throttle-alert slowed the device")
    facts = {fact.name: fact.value for fact in device_facts(report)}
    assert facts["board"] == "kitchen, over ssh"
    assert facts["power mode"].startswith("15W (by /var/lib/nvpmodel/status")
    assert facts["clock.gpu"].startswith("306 MHz (")
    assert facts["power.VDD_IN"].endswith(" W (6.12 to 6.12)")
    assert not [name for name in facts if name.startswith(("throttle.", "energy."))]


def test_of_a_report_without_telemetry_nothing_is_said() -> None:
    report: dict[str, Any] = {"engines": [{"name": "dense-fp32"}], "shipped": "dense-fp32"}
    assert (device_facts(report), device_findings(report), beside_inference(report)) == ([], [], [])


@pytest.mark.parametrize(("used", "said"), [(True, "used: the query is one launch"), (False, "not used: ")])
def test_whether_a_cuda_graph_was_timed_is_said(used: bool, said: str) -> None:
    (fact,) = beside_inference({"engines": [{"name": "a", "cuda_graph": used}], "shipped": "a"})
    assert fact.name == "CUDA graph"
    assert fact.value.startswith(said)


def robustness(**keys: Any) -> dict[str, Any]:
    """A recipe's section, as a report keeps it."""
    own = dict.fromkeys(("apgd_steps", "fab_steps", "targets", "square_queries", "pgd_step_size"))
    return {"robustness": {"norm": "linf", "budget": "standard", "pgd_steps": 20, "pgd_restarts": 2} | own | keys}


@pytest.mark.parametrize(
    ("method", "keys", "text"),
    [
        ("fgsm", {}, "FGSM: one gradient step"),
        ("pgd", {}, "PGD: 20 gradient steps, best of 2 random starts"),
        ("pgd", {"pgd_step_size": 0.01, "pgd_restarts": 1}, "PGD: 20 gradient steps of 0.01, best of 1 random start"),
        ("apgd_ce", {"budget": "fast"}, "APGD-CE: budget fast"),
        ("apgd_dlr", {"apgd_steps": 50}, "APGD-T: 50 gradient steps, towards the likeliest wrong classes"),
        ("fab", {"fab_steps": 1}, "FAB-T: 1 gradient step, towards the likeliest wrong classes"),
        ("square", {"square_queries": 1500}, "Square: 1,500 queries"),
        ("label_only", {}, "LABEL_ONLY"),
    ],
)
def test_an_attack_is_told_with_its_budget(method: str, keys: dict[str, Any], text: str) -> None:
    assert attack_words.attack_sentence(method, robustness(**keys)) == text


def crafted(*methods: str, surrogate: str = "dense") -> list[dict[str, Any]]:
    """Adversarial sets of a report."""
    return [{"method": method, "surrogate": surrogate} for method in methods]


def test_what_was_not_tried_depends_on_what_was() -> None:
    whole = crafted("apgd_ce", "apgd_dlr", "fab", "square")
    standard = attack_words.not_tried({"recipe": robustness()}, whole)
    fast = attack_words.not_tried({"recipe": robustness(budget="fast", norm="l2")}, whole)
    weak = attack_words.not_tried({"recipe": robustness()}, crafted("pgd"))
    assert "AutoAttack" not in standard
    assert "other norms than L∞" in standard
    assert "the standard budget of AutoAttack" in fast
    assert "other norms than L2" in fast
    assert "stronger attacks (such as AutoAttack)" in weak
    assert "the standard budget of AutoAttack" in attack_words.not_tried({"recipe": robustness(targets=3)}, whole)
    for left in ("gradients through the rounding of an INT8 engine", "patches", "query attacks on the engine itself"):
        assert left in standard
    more = {"recipe": robustness(), "threats": [{"name": "patch"}], "query_plan": {"queries": 9}}
    adaptive = attack_words.not_tried(more, [*whole, *crafted("pgd", surrogate="twin")])
    assert "rounding" not in adaptive
    assert "patches" not in adaptive
    assert "more queries to the engine" in adaptive


def test_a_set_is_told_by_what_made_it_and_its_ball() -> None:
    row = {"method": "apgd_ce", "surrogate": "dense", "epsilon": 0.5, "norm": "l2", "rounded": True}
    assert attack_words.made_by(row) == "APGD-CE by gradients of dense, as bytes"
    assert attack_words.made_by({"method": "square", "surrogate": "dense"}) == "Square by queries of dense"
    assert attack_words.epsilon_cell(row) == "0.5 (L2)"
    assert attack_words.epsilon_cell({"epsilon": 8 / 255}) == "0.0313725 (8/255)"


def test_sanity_is_told_by_surrogate_and_older_reports_have_none() -> None:
    row = {
        "surrogate": "dense",
        "samples": 64,
        "unlimited": 0.0,
        "by_epsilon": {"0.05": 0.875, "0.1": 0.5},
        "by_steps": {"1": 0.75, "10": 0.5, "3": 0.625},
        "zero_gradients": 0.25,
        "median_gradient": 0.12345,
        "notes": ["25 % of the gradients are exactly zero: gradients are masked"],
    }
    (found,) = attack_words.sanity_rows({"sanity": [row]})
    assert (found.unlimited, found.zero_gradients, found.median_gradient) == ("0.0 %", "25.0 %", "0.123")
    assert (found.by_epsilon, found.by_steps) == ("0.05: 87.5 %, 0.1: 50.0 %", "1: 75.0 %, 3: 62.5 %, 10: 50.0 %")
    assert found.notes == tuple(row["notes"])
    assert attack_words.sanity_rows({}) == []


def test_an_engine_that_answers_at_random_has_no_accuracy_in_page_and_summary(tmp_path: Path) -> None:
    report, sets = example_report(), build_sets()
    shipped = next(engine for engine in report["engines"] if engine["name"] == report["shipped"])
    outcomes = {report["shipped"]: Outcome(replay(random_answers(), sets))}
    shipped |= summarize(report["shipped"], outcomes, report["shipped"], sets, None)
    said = "answers at random: only"
    page = render_page(report)
    assert page.count(said) == 1
    assert "An engine answers at random." in page
    assert "An engine answers at random." not in render_page(example_report())
    lines = summary_lines(report, tmp_path)
    assert [line for line in lines if said in line] == [f"! {shipped['title']} {shipped['masking']['words']}"]
    row = next(line for line in lines if line.startswith(shipped["title"]))
    assert row.split()[-2:] == ["unknown", "unknown"]


def test_a_board_that_was_forced_is_so_though_its_figures_were_stored_by_a_run_here() -> None:
    host = detect_host()
    note = "the board is not a CPU: it was forced"
    board = RunBoard(name="kitchen", host=host, fingerprint="x", notes=(note,), run_stage=print, other_device=True)  # type: ignore[arg-type]
    work = Work(read_recipe(drill.DRILL), load_profile("cpu"), host, "espalier run", board)
    told = {"name": "kitchen", "notes": [note], "other_device": True}
    assert _board(work, {}) == told
    assert _board(work, {"board": {"seconds": 1.0, "notes": [note, "a clock"]}}) == told | {"notes": [note, "a clock"]}
