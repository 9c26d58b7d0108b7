"""The search on the page: how far it went, its picture, and each point of the front with the command that makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from pipeline.report.figures import plural, significant
from pipeline.report.plot_pareto import figure_text, has_row, objective_title, plot_pareto, trial_anchor
from pipeline.report.svg import element

_Figures = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class FrontRow:
    """One point of the front, in words."""

    name: str
    chosen: bool
    figures: tuple[str, ...]
    """One for each objective."""
    keep: str
    """Least and most that a group keeps."""
    command: str


def front_rows(search: _Figures, command: str) -> list[FrontRow]:
    """Points of the front, best by the first objective first; and the chosen one, if it is not on it.

    `command` is what the user typed; with the point's name behind it, it makes that point.
    """
    first = search["objectives"][0]
    rising = first.endswith("accuracy")
    shown = [trial for trial in search["trials"] if has_row(trial, search["chosen"])]
    shown.sort(key=lambda trial: float(trial["metrics"][first]), reverse=rising)
    return [
        FrontRow(
            name=trial["name"],
            chosen=trial["name"] == search["chosen"],
            figures=tuple(figure_text(name, trial["metrics"][name]) for name in search["objectives"]),
            keep=_keep(trial["keep"].values()),
            command=f"{command} --set search.choose={trial['name']}",
        )
        for trial in shown
    ]


def search_sentence(search: _Figures) -> str:
    """What was searched and found."""
    trials = search["trials"]
    front = sum(trial["on_front"] for trial in trials)
    groups = plural(len(search["groups"]), "group")
    volume = search["hypervolume"]
    covered = "" if volume is None else f" They cover {significant(100 * volume)} % of what is possible (hypervolume)."
    return (
        f"NSGA-II tried {plural(len(trials), 'choice')} of widths for {groups}, and {front} of them are on the Pareto "
        f"front: no other is better in one objective and not worse in the rest.{covered} Each was judged after "
        "BatchNorm recalibration, before any fine-tuning, on training images set aside from the recalibration; the "
        "network may have been trained on them, so the accuracies rank the points and promise nothing for new images."
    )


def search_section(search: _Figures, command: str) -> Markup:
    """Sentence, picture and table as HTML, without a heading. `search` is a `study.json` with the trial `chosen`."""
    plot = plot_pareto(search)
    picture = element(
        "figure",
        element("figcaption", plot.title),
        plot.svg,
        element("p", plot.note, class_="note"),
        class_="figure wide",
    )
    return element("p", search_sentence(search)) + picture + _table(search, front_rows(search, command))


def _table(search: _Figures, rows: list[FrontRow]) -> Markup:
    titles = ["point", *map(objective_title, search["objectives"]), "groups keep", "command"]
    head = element("tr", *(element("th", title, scope="col") for title in titles))
    body = [element("tr", *_cells(row), id=trial_anchor(row.name), tabindex="-1") for row in rows]
    caption = "Points of the Pareto front, and the command that prunes to each"
    table = element(
        "table", element("caption", element("span", caption)), element("thead", head), element("tbody", *body)
    )
    return element("div", table, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _cells(row: FrontRow) -> list[Markup]:
    badge = (" ", element("span", "chosen", class_="badge")) if row.chosen else ()
    return [
        element("th", row.name, *badge, scope="row", class_="nowrap"),
        *(element("td", text, class_="nowrap") for text in row.figures),
        element("td", row.keep, class_="nowrap"),
        element("td", element("code", row.command)),
    ]


def _keep(shares: Any) -> str:
    percents = sorted(round(100 * share) for share in shares)
    low, high = percents[0], percents[-1]
    return f"{low} %" if low == high else f"{low} to {high} %"
