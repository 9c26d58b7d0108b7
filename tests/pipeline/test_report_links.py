"""Where points of the report's plots lead, and what it says of parts that were not asked for, in a real Chromium."""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.layers_missing import roofline_missing, sensitivity_missing
from pipeline.report.page import render_page
from pipeline.report.plot_pareto import plot_pareto
from tests import drill
from tests.browser import Browser, started_browser
from tests.pipeline.example_report import example_report
from tests.pipeline.example_run import grown_report

ROOT = Path(__file__).parents[2]
# Enter on a plot's link, and what the page then marks: its name, what stands in its column or row, and whether it
# begins in view, beside the names of the rows that stay in place.
_LINKS = "[...document.querySelectorAll('%s svg.plot a')].map(link => link.getAttribute('aria-label'))"
_MARKED = """(mark => [mark.textContent.trim(), document.activeElement === mark,
  mark.tagName === 'TR' ? [...mark.cells].map(cell => cell.textContent.trim())
  : [...mark.closest('table').querySelectorAll('tbody tr:not(.group)')]
    .map(row => row.cells[mark.cellIndex].firstChild.textContent.trim()),
  getComputedStyle(mark).outlineStyle, getComputedStyle(mark.cells?.[0] ?? mark).backgroundColor,
  ((box, names) => box.top > 0 && box.left >= names.right - 1 && box.left + 100 <= innerWidth)(
    mark.getBoundingClientRect(),
    mark.tagName === 'TR' ? {right: 0} : mark.closest('table').querySelector('thead td').getBoundingClientRect())
])(document.querySelector(':target'))"""
_CONTRAST = """axe.run('table:has(:target)', {runOnly: ['color-contrast']})
  .then(found => [found.violations.length, found.passes.flatMap(rule => rule.nodes).length])"""
_BACKGROUND = {"light": "rgb(255, 240, 179)", "dark": "rgb(64, 51, 8)"}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all."""
    with started_browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything that a report may have, a search among it."""
    page = tmp_path_factory.mktemp("grown") / "report.html"
    page.write_text(render_page(grown_report()), encoding="utf-8")
    return page


def _enter(browser: Browser, part: str, index: int) -> list[Any]:
    """Go from the point by the keyboard, and read what is marked then."""
    link = f"document.querySelectorAll('{part} svg.plot a')[{index}]"
    browser.run(f"{link}.focus()")
    browser.press("Enter")
    # Scrolled to as well, by the next frame but one.
    browser.run(f"""new Promise(done => {{
      const look = () => location.hash === {link}.getAttribute('href')
        ? requestAnimationFrame(() => requestAnimationFrame(done)) : setTimeout(look, 10);
      look();
    }})""")
    found: list[Any] = browser.run(_MARKED)
    return found


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_point_leads_to_its_engines_figures(
    browser: Browser, drilled: tuple[Path, Path], width: int, scheme: str
) -> None:
    browser.open(drilled[1] / "report.html", width, scheme)
    labels = browser.run(_LINKS % "#compare")
    # Four engines, by latency and by size.
    assert len(labels) == 8
    for index, label in enumerate(labels):
        name, _, figures = label.removesuffix(". Goes to its figures").partition(": ")
        head, focused, column, outline, background, in_view = _enter(browser, "#compare", index)
        assert re.fullmatch(rf"{re.escape(name)}( ships)?", head)
        assert (focused, outline, in_view) == (True, "solid", True), label
        assert background == _BACKGROUND[scheme]
        size, p50, clean, robust = (
            figure.split(" ", 1)[-1] if figure[0].isalpha() else figure for figure in figures.split(", ")[:4]
        )
        plain = [text.replace("\N{NO-BREAK SPACE}", " ") for text in column]
        assert {size, p50, clean, robust} <= set(plain), label
    assert browser.faults == []


def test_links_of_a_page_lead_to_one_place_each_and_points_say_what_they_are(grown: Path) -> None:
    """Pointed at, a link names itself by a title of its own: one further in is hidden by what a finger touches."""
    page = grown.read_text(encoding="utf-8")
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r' href="#([^"]+)"', page)) <= set(ids)
    links = re.findall(r"<a [^>]*aria-label=[^>]*>(<title>)?", page)
    assert len(links) > 8
    assert all(links)


def test_a_finger_reaches_half_the_way_to_the_next_point() -> None:
    trials = [trial | {"on_front": True} for trial in grown_report()["search"]["trials"]]
    for trial in trials[2:]:
        trial["metrics"] = trials[1]["metrics"] | {"macs": trials[1]["metrics"]["macs"] * 1.01}
    drawn = str(plot_pareto(grown_report()["search"] | {"trials": trials}).svg)
    reach = [float(px) for px in re.findall(r'r="([\d.]+)" fill="transparent"', drawn)]
    assert len(reach) == len(trials)
    assert max(reach) == 14
    assert sorted(reach)[:-1] == [3.0] * (len(trials) - 1)


def test_a_point_of_the_search_leads_to_its_row(browser: Browser, grown: Path) -> None:
    browser.open(grown)
    labels = browser.run(_LINKS % "#channels")
    # Of five trials three are on the front: the others have no row.
    assert sorted(label.partition(":")[0] for label in labels) == ["trial-0", "trial-3", "trial-4"]
    for index, label in enumerate(labels):
        name, _, figures = label.removesuffix(". Goes to its row").partition(": ")
        _, focused, cells, outline, background, in_view = _enter(browser, "#channels", index)
        assert cells[0].removesuffix(" chosen") == name
        assert [f"accuracy {cells[1]}", f"MACs {cells[2]}"] == figures.split(", ")
        assert (focused, outline, background, in_view) == (True, "solid", _BACKGROUND["light"], True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("part", ["#compare", "#channels"])
def test_what_is_marked_can_be_read(browser: Browser, grown: Path, part: str, scheme: str) -> None:
    found = find_spec("axe_core_python")
    assert found is not None
    assert found.origin is not None
    browser.open(grown, scheme=scheme)
    browser.run(f"{(Path(found.origin).parent / 'axe.min.js').read_text(encoding='utf-8')};0")
    _enter(browser, part, 1)
    wrong, read = browser.run(_CONTRAST)
    assert wrong == 0
    assert read > 10


def _said(page: Path) -> dict[str, list[str]]:
    """Paragraphs below each small head of the section of layers."""
    text = html.unescape(page.read_text(encoding="utf-8")).replace("\N{NO-BREAK SPACE}", " ")
    section = text.partition('<section id="layers"')[2].partition("</section>")[0]
    parts = re.findall(r"<h3>(.*?)</h3>(.*?)(?=<h3>|$)", section, re.DOTALL)
    assert len({head for head, _ in parts}) == len(parts)
    return {head: re.findall("<p>(.*?)</p>", part) for head, part in parts}


def test_what_a_page_lacks_it_says_and_does_not_say_where_it_is_there(
    drilled: tuple[Path, Path], tmp_path: Path
) -> None:
    said = _said(drilled[1] / "report.html")
    budgets = "max_score_drop, min_agreement or min_sqnr_db under [quantize.mixed] in the recipe"
    assert said["Sensitivity to quantization"] == [f"Not measured. To have it, set {budgets}."]
    assert said["Roofline"][1] == (
        "Not drawn: the roofline, whose model is fitted to GPUs. Times of a CPU are predicted from a [latency_table] "
        "in the network's precision, by espalier devices calibrate."
    )
    # As a GPU's profile has them.
    keys = ("bandwidth_gb_s", "fp32_tflops", "gpu_clock_mhz", "int8_tops")
    profile = (ROOT / "devices" / "profiles" / "cpu.toml").read_text(encoding="utf-8")
    rates = "\n".join(f"{key} = 100.0" for key in keys)
    sources = "\n".join(f'"hardware.{key}" = "an example"' for key in keys)
    (tmp_path / "mine.toml").write_text(
        profile.replace('name = "cpu"', 'name = "mine"').replace("[measure]", f"[hardware]\n{rates}\n\n[measure]")
        + f"{sources}\n",
        encoding="utf-8",
    )
    shutil.copytree(drilled[0], tmp_path / "store")
    asked = ("--profile", str(tmp_path / "mine.toml"), "--set", "quantize.mixed.min_agreement=0.1")
    done = drill.run(tmp_path / "store", tmp_path / "run", *asked)
    assert done.returncode == 0, done.stderr
    page = tmp_path / "run" / "report.html"
    told = _said(page)
    heads = [f"Sensitivity to quantization, {form} network" for form in ("dense", "compressed")]
    assert list(told) == ["Roofline", *heads]
    assert "Not drawn" not in page.read_text(encoding="utf-8")
    assert "To have it, set" not in page.read_text(encoding="utf-8")
    assert "Roofline position of each layer" in page.read_text(encoding="utf-8")


def test_what_is_there_or_cannot_be_known_is_not_asked_for(grown: Path) -> None:
    assert "To have it, set" not in grown.read_text(encoding="utf-8")
    before = example_report()
    assert (roofline_missing(before), sensitivity_missing(before)) == ("", "")
    costs = grown_report()["layer_costs"]
    by_table = costs | {"roofs": {}, "missing": ["hardware.int8_tops"], "device_kind": "gpu"}
    roof = "Not drawn: the roofline. To have it, set hardware.int8_tops in the device's profile (--profile FILE)."
    assert roofline_missing({"layer_costs": by_table}) == roof
    table = "For predicted times alone, a [latency_table] in the network's precision, by espalier devices calibrate"
    without = by_table | {"why": "the device's profile lacks rates"}
    assert roofline_missing({"layer_costs": without}) == f"{roof} {table}, is enough."
    on_cpu = by_table | {"device_kind": "cpu"}
    told = "Not drawn: the roofline, whose model is fitted to GPUs."
    assert roofline_missing({"layer_costs": on_cpu}) == told
    unknown = {"layer_costs": costs | {"layers": [], "missing": [], "why": "model.onnx: is odd"}}
    assert roofline_missing(unknown) == "Not known: what each layer costs (model.onnx: is odd)."
    kept = {"sensitivity": [grown_report()["sensitivity"][0] | {"harms": []}], "recipe": {}}
    assert sensitivity_missing(kept) == "Not measured: every layer stays in higher precision anyway."
    floats = {"sensitivity": [], "recipe": {"quantize": {"precision": "fp16"}}}
    assert 'set quantize.precision to "int8" or "fp8", and max_score_drop' in sensitivity_missing(floats)
