"""The search on the report page: every point of the front is drawn, named, and can be made again."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from devices.files import parse_toml_value
from pipeline.report.plot_pareto import figure_text, plot_pareto
from pipeline.report.search_view import front_rows, search_section, search_sentence
from tests.pipeline.search.test_study import example

COMMAND = "espalier run recipe.toml --device cpu"
HOSTILE = "</svg><script>alert(1)</script>"


def searched(**more: Any) -> dict[str, Any]:
    """A study as the report has it."""
    return example(chosen="trial-3") | more


def _parsed(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<section>{html}</section>")


def test_it_is_well_formed_and_names_every_trial() -> None:
    section = _parsed(search_section(searched(), COMMAND))
    titles = [item.text or "" for item in section.iter("title")]
    assert sorted(title.partition(":")[0] for title in titles) == [f"trial-{number}" for number in range(5)]
    assert "trial-3: accuracy 90.00 %, MACs 50" in titles
    texts = {item.text for item in section.iter("text")}
    assert {"whole network", "chosen: trial-3"} <= texts
    assert not list(section.iter("script"))


def test_the_table_has_the_front_with_a_command_for_each() -> None:
    section = _parsed(search_section(searched(), COMMAND))
    rows = [["".join(cell.itertext()) for cell in row] for row in section.iter("tr")][1:]
    assert [row[0] for row in rows] == ["trial-0", "trial-3 chosen", "trial-4"]
    assert rows[1] == ["trial-3 chosen", "90.00 %", "50", "70 %", f"{COMMAND} --set search.choose=trial-3"]
    for row in front_rows(searched(), COMMAND):
        # What the command line makes of it is the name.
        assert parse_toml_value(row.command.rpartition("search.choose=")[2]) == row.name


def test_a_chosen_point_off_the_front_is_listed_too() -> None:
    search = searched(chosen="trial-2")
    assert [row.name for row in front_rows(search, COMMAND)] == ["trial-0", "trial-3", "trial-2", "trial-4"]
    assert "chosen: trial-2" in {item.text for item in _parsed(search_section(search, COMMAND)).iter("text")}


def test_better_is_higher_and_cheaper_is_left() -> None:
    places = {}
    for point in _parsed(plot_pareto(searched()).svg).iter():
        title, inner = point.find("title"), point.find("svg")
        if title is None or inner is None:
            continue
        places[str(title.text).partition(":")[0]] = (float(inner.attrib["x"].rstrip("%")), float(inner.attrib["y"]))
    across = [places[name][0] for name in ("trial-4", "trial-3", "trial-1", "trial-2", "trial-0")]
    assert across == sorted(across)
    down = [places[name][1] for name in ("trial-0", "trial-1", "trial-2", "trial-4")]
    assert down == sorted(down)
    assert places["trial-1"][1] == places["trial-3"][1]
    assert across[-1] == 100


def test_the_front_is_joined_only_where_it_is_a_line() -> None:
    two = plot_pareto(searched())
    assert two.svg.count('class="curve compressed reduced"') == 2
    search = searched(objectives=["accuracy", "latency_ms", "macs"])
    for number, trial in enumerate(search["trials"]):
        trial["metrics"]["latency_ms"] = 1.5 - number / 10
    three = plot_pareto(search)
    assert "curve" not in three.svg
    assert "may lie behind others" in three.note
    assert "latency, ms" in three.svg


def test_without_a_volume_none_is_claimed() -> None:
    assert "hypervolume" in search_sentence(searched())
    assert "hypervolume" not in search_sentence(searched(hypervolume=None))


@pytest.mark.parametrize(
    ("objective", "value", "text"),
    [
        ("robust_accuracy", 0.91239, "91.24 %"),
        ("latency_ms", 0.12345, "0.123 ms"),
        ("macs", 9_470_000, "9.47 M"),
        ("size_bytes", 36_031, "36.0 kB"),
        ("energy", 0.5, "0.500"),
    ],
)
def test_figures_have_their_units(objective: str, value: float, text: str) -> None:
    assert figure_text(objective, value) == text


def test_what_comes_from_elsewhere_stays_text() -> None:
    search = searched(objectives=["accuracy", HOSTILE], chosen="trial-0")
    for trial in search["trials"]:
        trial["metrics"][HOSTILE] = trial["metrics"]["macs"]
    html = search_section(search, HOSTILE)
    assert "<script" not in html
    _parsed(html)


def test_one_trial_alone_can_be_drawn() -> None:
    search = searched(chosen="trial-0")
    search["trials"] = search["trials"][:1]
    section = search_section(search, COMMAND)
    assert "whole network, chosen" in section
    assert not re.search(r"\b(nan|inf)\b", section)
    _parsed(section)
