"""Every trial of a search by its first two objectives, with the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from pipeline.report.engine_style import marker, plain_id
from pipeline.report.figures import milliseconds, scaled, significant, size
from pipeline.report.scatter import Place, at_point, linked_point, name_at
from pipeline.report.svg import Axis, Plot, bottom_axis, element, frame, label, left_axis, line, linear_axis

_HEIGHT = 300
_PADDING = (26, 22, 44, 52)
_SPOKEN = 24
_SCALES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_Row = Mapping[str, Any]


def figure_text(objective: str, value: float) -> str:
    """A trial's figure with its unit."""
    if objective.endswith("accuracy"):
        return f"{100 * value:.2f} %"
    if objective.endswith("_ms"):
        return milliseconds(value)
    if objective.endswith("_bytes"):
        return size(value)
    return scaled(value) if objective in ("macs", "parameters") else significant(value)


def objective_title(objective: str) -> str:
    """An objective in words, without its unit."""
    if objective == "macs":
        return "MACs"
    return objective.removesuffix("_ms").removesuffix("_bytes").replace("_", " ")


def trial_anchor(name: str) -> str:
    """Where a trial's row in the table of the front is, as an id: names differ in letters and digits."""
    return f"search-{plain_id(name)}"


def has_row(trial: _Row, chosen: str) -> bool:
    """Whether the table of the front lists a trial: it is on the front, or it is the one that was chosen."""
    return bool(trial["on_front"]) or trial["name"] == chosen


def plot_pareto(search: Mapping[str, Any]) -> Plot:
    """First objective upwards, second across; `search` is a `study.json` with the name of the trial `chosen`.

    Points that the table of the front lists are links to their rows.
    """
    up, across = search["objectives"][:2]
    trials: Sequence[_Row] = search["trials"]
    front = sorted((trial for trial in trials if trial["on_front"]), key=lambda row: float(row["metrics"][across]))
    upward, up_title, up_scale = _axis(up, trials)
    rightward, across_title, across_scale = _axis(across, trials)

    def place(trial: _Row) -> tuple[float, float]:
        x = rightward.share(trial["metrics"][across] / across_scale)
        return x, _HEIGHT * (1 - upward.share(trial["metrics"][up] / up_scale))

    parts = [bottom_axis(rightward, _HEIGHT, across_title), left_axis(upward, 0, _HEIGHT)]
    parts.append(label(up_title, 0, -10, dx=-_PADDING[3] + 2, class_="axis-title"))
    # With a third objective neighbours here are none there.
    if len(search["objectives"]) == 2:
        parts += [
            line(x1, y1, x2, y2, class_="curve compressed reduced")
            for (x1, y1), (x2, y2) in pairwise(map(place, front))
        ]
    dense, chosen, places = trials[0]["name"], search["chosen"], list(map(place, trials))
    # The front last, so that nothing hides it.
    for trial in sorted(trials, key=lambda row: (row["name"] in (dense, chosen), row["on_front"])):
        parts.append(_drawn(trial, place(trial), places, search))
    named = (
        {dense: "whole network", chosen: f"chosen: {chosen}"} if chosen != dense else {dense: "whole network, chosen"}
    )
    for trial in trials:
        if trial["name"] in named:
            x, y = place(trial)
            parts.append(name_at(x, y, named[trial["name"]], below=y <= 28))
    title = f"{objective_title(up).capitalize()} against {objective_title(across)} of every trial"
    said = "; ".join(_words(trial, search["objectives"]) for trial in front[:_SPOKEN])
    more = f"; and {len(front) - _SPOKEN} more" if len(front) > _SPOKEN else ""
    described = f"{title}. Pareto front: {said}{more}."
    return Plot(title, frame(described, _HEIGHT, _PADDING, *parts, linked=True), _note(search["objectives"]))


def _note(objectives: Sequence[str]) -> str:
    weighed = ", ".join(map(objective_title, objectives))
    joined = "" if len(objectives) == 2 else " Seen by two of them alone, a point of the front may lie behind others."
    return f"Diamonds are on the Pareto front of {weighed}; circles are the other trials.{joined}"


def _axis(objective: str, trials: Sequence[_Row]) -> tuple[Axis, str, float]:
    """The axis, its title, and what a figure is divided by on it."""
    values = [float(trial["metrics"][objective]) for trial in trials]
    title, scale = objective_title(objective), 1.0
    if objective.endswith("accuracy"):
        title, scale = f"{title}, %", 0.01
    elif objective.endswith("_ms"):
        title = f"{title}, ms"
    elif objective in ("macs", "parameters") or objective.endswith("_bytes"):
        unit = "B" if objective.endswith("_bytes") else ""
        scale, prefix = next(((s, p) for s, p in _SCALES if max(values) >= s), (1.0, ""))
        title = f"{title}, {prefix}{unit}" if prefix or unit else title
    # Costs from nothing, so that a half looks like a half.
    low = min(values) if objective.endswith("accuracy") else min(0.0, *values)
    return linear_axis(low / scale, max(values) / scale), title, scale


def _words(trial: _Row, objectives: Sequence[str]) -> str:
    figures = ", ".join(f"{objective_title(name)} {figure_text(name, trial['metrics'][name])}" for name in objectives)
    return f"{trial['name']}: {figures}"


def _drawn(trial: _Row, at: Place, places: Sequence[Place], search: Mapping[str, Any]) -> Markup:
    words, dense, chosen = _words(trial, search["objectives"]), search["trials"][0]["name"], search["chosen"]
    inside = element("title", words) + at_point(*at, _mark(trial, dense, chosen))
    if not has_row(trial, chosen):
        return element("g", inside)
    return linked_point(at, places, inside, f"#{trial_anchor(trial['name'])}", f"{words}. Goes to its row")


def _mark(trial: _Row, dense: str, chosen: str) -> Markup:
    if trial["name"] == chosen:
        ring = element("circle", cx=0, cy=0, r=10, class_="reference", fill="none")
        return ring + marker("compressed reduced" if trial["on_front"] else "compressed full")
    if trial["name"] == dense:
        return marker("dense reduced" if trial["on_front"] else "dense full")
    if trial["on_front"]:
        return marker("compressed reduced")
    return element("circle", cx=0, cy=0, r=3, class_="axis", fill="none")
