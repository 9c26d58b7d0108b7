"""The pages in a real Chromium: no complaint, every plot drawn, usable by keyboard, screen reader and on a phone."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from devices.errors import EXIT_OK
from devices.files import write_json
from pipeline.cli import main
from pipeline.pages.compare import compare_page
from pipeline.pages.index import index_page
from pipeline.report.page import render_page
from pipeline.report.threats_view import title_of_threat
from tests.browser import Browser, started_browser
from tests.pipeline.example_parts import layer_times
from tests.pipeline.example_report import budget
from tests.pipeline.example_run import grown_report, write_run

ROOT = Path(__file__).parents[2]
_OPEN_ALL = "document.querySelectorAll('details').forEach(part => part.open = true)"
_SIDES = (
    "[...document.querySelectorAll('svg.plot')].flatMap(p => (r => [r.width, r.height])(p.getBoundingClientRect()))"
)
# What is wrong, and of how many texts the contrast could be told.
_AXE = """axe.run(%s).then(found => [found.violations
  .filter(rule => ["serious", "critical"].includes(rule.impact))
  .map(rule => [rule.id, rule.nodes[0].html.slice(0, 200), rule.nodes[0].failureSummary]),
  found.passes.filter(rule => rule.id === "color-contrast").flatMap(rule => rule.nodes).length])"""
# Of what has the focus: its place in the page, whether it (in a plot: its mark) is outlined, and whether it is in view.
_FOCUSED = """(e => { const box = e.getBoundingClientRect(), ring = e.querySelector('[fill=transparent]') ?? e; return [
  [...document.querySelectorAll('*')].indexOf(e),
  getComputedStyle(e).outlineStyle !== 'none' || getComputedStyle(ring).stroke !== 'none',
  box.width > 0 && box.height > 0 && box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth];
})(document.activeElement)"""
# The page's own way to save, up to the file: what would be written is caught instead.
_SAVED = """(async button => {
  let blob; const kept = URL.createObjectURL;
  URL.createObjectURL = found => { blob = found; return "#"; };
  button.click(); URL.createObjectURL = kept;
  return blob.text();
})(document.querySelector(%r))"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all."""
    with started_browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report with long names and lists, a comparison of three runs, and an index with a damaged one."""
    root = tmp_path_factory.mktemp("pages")
    report = grown_report()
    report["layers"] = [report["layers"][0] | {"name": f"layer{index}"} for index in range(40)]
    report["layers"][0]["name"] = "a.very.long.name." * 20
    report["images"][0]["label"] = "x" * 300
    text = "robust accuracy lost against dense FP32"
    report["verdict"]["budgets"] += [
        budget("max_robust_accuracy_drop", text, 6.0, "points", -0.278, -1.519, 2.072),
        budget("max_size_bytes", "size of the engine", 200_000_000, "bytes", 2e8, 2e8, 2e8),
    ]
    for number, name in enumerate(("first", "second", "a-third-with-a-rather-long-name")):
        changed = grown_report(recipe=report["recipe"] | {"seed": number})
        for engine in changed["engines"]:
            engine["size_bytes"] = 36_031 * (number + 1)
        write_run(root / name, changed, wrong=5 + number)
    write_run(root / "report", report)
    write_json(root / "times.json", layer_times(report))
    assert main(["report", str(root / "report"), "--layers", str(root / "times.json")]) == EXIT_OK
    (root / "torn").mkdir()
    (root / "torn" / ".espalier").touch()
    (root / "index.html").write_text(index_page(root)[0], encoding="utf-8")
    runs = [root / name for name in ("first", "second", "a-third-with-a-rather-long-name")]
    (root / "compare.html").write_text(compare_page(runs, root / "compare.html"), encoding="utf-8")
    return {"report": root / "report" / "report.html"} | {name: root / f"{name}.html" for name in ("compare", "index")}


def test_the_report_that_is_looked_at_has_every_part(pages: dict[str, Path]) -> None:
    """Else the browser would not see what it lacks."""
    page = pages["report"].read_text(encoding="utf-8")
    templates = "".join((ROOT / "pipeline" / "report" / name).read_text() for name in ("page.html", "part_layers.html"))
    for pattern in (r'(<section id="[^"{]+)', r"(<h3>[^<{]+)", r'(role="region" aria-label="[^"{]+)'):
        parts = re.findall(pattern, templates)
        assert len(parts) > 8, pattern
        assert [part for part in parts if part not in page] == []
    told = json.loads((pages["report"].parent / "report.json").read_text(encoding="utf-8"))
    for threat in told["threats"]:
        assert f"<h3>{title_of_threat(threat)}</h3>" in page
    assert len(told["threats"]) == 7


# Of an answer of the browser, when a page is left before it answers.
_LEFT = "'code': -32000"
_PLOTS = {"report": 15, "compare": 2, "index": 0}


@pytest.mark.parametrize("width", [390, 800, 1280])
@pytest.mark.parametrize("name", _PLOTS)
def test_every_plot_is_drawn_and_nothing_scrolls_across(
    browser: Browser, pages: dict[str, Path], name: str, width: int
) -> None:
    browser.open(pages[name], width)
    browser.run(_OPEN_ALL)
    sides = browser.run(_SIDES)
    assert len(sides) == 2 * _PLOTS[name]
    assert all(side > 100 for side in sides)
    assert browser.run("[innerWidth, document.scrollingElement.scrollWidth]") == [width, width]
    assert browser.faults == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", _PLOTS)
def test_axe_finds_nothing_serious(browser: Browser, pages: dict[str, Path], name: str, scheme: str) -> None:
    found = find_spec("axe_core_python")
    assert found is not None
    assert found.origin is not None
    axe = (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8")
    browser.open(pages[name], 1280 if scheme == "light" else 390, scheme)
    browser.run(_OPEN_ALL)
    dark = browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(17, 20, 24)"
    assert dark == (scheme == "dark")
    browser.run(f"{axe};0")
    wrong, contrasts = browser.run(_AXE % "")
    assert wrong == []
    # A background that it cannot read makes it leave out the contrast of every text, and find nothing.
    assert contrasts > 50
    # It would find something.
    browser.run("document.body.insertAdjacentHTML('beforeend', '<button></button>')")
    wrong, _ = browser.run(_AXE % "{runOnly: ['button-name']}")
    assert [rule for rule, *_ in wrong] == ["button-name"]


def test_links_lead_somewhere(browser: Browser, pages: dict[str, Path]) -> None:
    for name, page in pages.items():
        browser.open(page)
        places = browser.run("[...document.querySelectorAll('a')].map(link => link.getAttribute('href'))")
        assert len(places) > 3, name
        for place in places:
            if place.startswith("#"):
                assert browser.run(f"document.getElementById({place[1:]!r}) !== null"), place
            else:
                assert (page.parent / place).is_file(), place
    browser.open(pages["compare"])
    assert browser.run("document.querySelectorAll('svg.plot a').length") == 6
    browser.run("document.querySelector('svg.plot a').focus()")
    browser.press("Enter")
    _until(browser, "document.title.startsWith('PASSED')")
    assert browser.run("location.pathname").endswith("/report.html")
    assert browser.faults == []


def _until(browser: Browser, condition: str) -> None:
    deadline, said = time.monotonic() + 60, ""
    while time.monotonic() < deadline:
        try:
            if browser.run(f"{condition} && document.readyState === 'complete'"):
                return
        except AssertionError as error:
            said = str(error)
            if _LEFT not in said:
                raise
        time.sleep(0.02)
    pytest.fail(f"never came: {condition} {said}")


def _csv(browser: Browser, button: str) -> list[dict[str, str]]:
    text = browser.run(_SAVED % button)
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))


def test_a_table_becomes_csv_with_its_numbers(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["report"])
    tables = browser.run("document.querySelectorAll('table').length")
    assert browser.run("document.querySelectorAll('button.csv').length") == tables > 12
    rows = _csv(browser, "#compare .scroll + button.csv")
    report: dict[str, Any] = grown_report()
    engine = next(row for row in report["engines"] if row["name"] == "compressed-int8")
    by_label = {row[""]: row for row in rows}
    p50 = by_label["p50: half of the queries"]
    assert p50["group"] == "Latency of one image, within"
    head = next(key for key in p50 if key.startswith("compressed, INT8"))
    found = engine["latency"]["p50_ms"]
    told = [p50[f"{head}{part}"] for part in ("", ", unit", ", low", ", high")]
    assert told[1] == "ms"
    assert [float(told[index]) for index in (0, 2, 3)] == pytest.approx([found["value"], found["low"], found["high"]])
    assert by_label["MACs per image"][head] == "9000000"
    assert by_label["robust, against dense, FP32"][f"{head}, low"] == "-4.50"
    budgets = _csv(browser, "#verdict .scroll + button.csv")
    assert [row["Found"] for row in budgets] == ["97.5", "-0.278", "200000000"]
    assert browser.faults == []


def test_a_spreadsheet_runs_nothing_of_a_table(browser: Browser, tmp_path: Path) -> None:
    report = grown_report()
    report["stages"] = [{"name": '=1+"1"', "stage": "a,b", "seconds": 1.0, "digest": "0" * 64}]
    page = tmp_path / "report.html"
    page.write_text(render_page(report), encoding="utf-8")
    browser.open(page)
    (row,) = _csv(browser, "#stages .scroll + button.csv")
    assert row == {"Result": '\'=1+"1"', "Stage": "a,b", "Time": "1.0", "Time, unit": "s", "Digest": "0" * 16}


def test_the_index_is_sorted_and_filtered_by_keyboard(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["index"])
    names = "[...document.querySelectorAll('#run-table tbody tr:not([hidden]) th')].map(cell => cell.textContent)"
    assert browser.run(names) == ["a-third-with-a-rather-long-name", "first", "report", "second"]
    browser.run("document.querySelector('#run-table thead th:nth-child(6) button').focus()")
    size = "document.querySelector('#run-table thead th:nth-child(6)').getAttribute('aria-sort')"
    browser.press("Enter")
    assert browser.run(size) == "ascending"
    assert browser.run(names) == ["first", "report", "second", "a-third-with-a-rather-long-name"]
    browser.press("Enter")
    assert browser.run(size) == "descending"
    assert browser.run(names)[0] == "a-third-with-a-rather-long-name"
    browser.run("document.querySelector('input[type=search]').focus()")
    browser.call("Input.insertText", text="SECOND passed")
    assert browser.run(names) == ["second"]
    assert browser.run("document.getElementById('run-count').textContent") == "1 of 4 shown"
    assert [row["Run"] for row in _csv(browser, "#runs .scroll + button.csv")] == ["second"]


@pytest.mark.parametrize("name", _PLOTS)
def test_every_control_is_reached_and_shown_by_tab(browser: Browser, pages: dict[str, Path], name: str) -> None:
    browser.open(pages[name])
    browser.run(_OPEN_ALL)
    wanted = browser.run("document.querySelectorAll('a, button, input, summary, [tabindex=\"0\"]').length")
    seen = []
    for _ in range(wanted):
        browser.press("Tab")
        number, outlined, shown = browser.run(_FOCUSED)
        assert (outlined, shown) == (True, True), number
        seen.append(number)
    # Once each, in the order in which they are read.
    assert seen == sorted(set(seen))
    assert len(seen) == wanted > 12


def test_without_scripts_the_pages_are_whole(pages: dict[str, Path]) -> None:
    for page in pages.values():
        still = re.sub(r"<script>.*?</script>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert "<button" not in still
        assert still.count("<table") == still.count("</table>") > 0
