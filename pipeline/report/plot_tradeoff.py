"""Size, latency, accuracy and robustness against each other: of a run's engines, or of the engines of several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.engine_style import engine_anchor, engine_class
from pipeline.report.figures import NOT_PROVEN, milliseconds, share, size
from pipeline.report.plot_strength import accuracy_axis, from_what
from pipeline.report.scatter import Point, plot_scatter
from pipeline.report.svg import Plot, linear_axis
from pipeline.report.words import words_of
from pipeline.summary import is_measured

_SCALES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_Figures = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An engine with the four figures that are weighed."""

    name: str
    engine: str
    """Its name in its run, which says how it looks."""
    size_bytes: int
    latency_ms: float | None
    """Median of one image; None where it is not known."""
    predicted: bool
    """Nobody measured the latency."""
    clean: _Figures | None
    """Accuracy with its interval; None of an engine that answers at random."""
    robust: _Figures | None
    """The same of the worst case; None where it is not proven."""
    samples: int
    emphasis: bool = False
    href: str = ""


def engine_candidates(report: _Figures) -> list[Candidate]:
    """Every engine of a run; each leads to its column in the table of all engines."""
    return [
        Candidate(
            name=engine["title"],
            engine=engine["name"],
            size_bytes=engine["size_bytes"],
            latency_ms=p50_ms(engine),
            predicted=not is_measured(report),
            clean=engine["clean"],
            robust=engine["robust"],
            samples=report["samples"],
            emphasis=engine["name"] == report["shipped"],
            href=f"#{engine_anchor(engine['name'])}",
        )
        for engine in report["engines"]
    ]


def p50_ms(engine: _Figures) -> float | None:
    """Median latency of an engine in ms, predicted where it was not measured; None where it is not known."""
    if engine["latency"] is not None:
        return float(engine["latency"]["p50_ms"]["value"])
    found = engine["predicted"]["latency_ms"]
    return None if found is None else float(found)


def on_front(candidates: Sequence[Candidate]) -> list[bool]:
    """Whether no other is at least as good in all four figures and better in one (Pareto). What is not known is worst.

    One that equals another in all is on the front when the other is.
    """
    goods = [_goods(candidate) for candidate in candidates]
    return [not any(_dominates(other, own) for other in goods) for own in goods]


def tradeoff_plots(candidates: Sequence[Candidate], report: _Figures) -> list[Plot]:
    """Accuracy over latency and over size; `report` names the task. Nothing where one engine stands alone, or one's
    accuracy is not known."""
    if len(candidates) < 2 or not all(candidate.clean for candidate in candidates):
        return []
    kind = "robust" if all(candidate.robust for candidate in candidates) else "clean"
    front = on_front(candidates)
    plots = []
    if all(candidate.latency_ms is not None for candidate in candidates):
        counted = sum(candidate.predicted for candidate in candidates)
        predicted = "" if not counted else ", PREDICTED" if counted == len(candidates) else ", some PREDICTED"
        times = [candidate.latency_ms or 0.0 for candidate in candidates]
        plots.append(_plot(candidates, front, kind, times, f"latency, p50{predicted}, ms", report))
    unit, name = next(((s, n) for s, n in _SCALES if max(item.size_bytes for item in candidates) >= s), (1.0, "bytes"))
    sizes = [candidate.size_bytes / unit for candidate in candidates]
    plots.append(_plot(candidates, front, kind, sizes, f"engine size, {name}", report))
    return plots


def front_note(candidates: Sequence[Candidate], report: _Figures) -> str:
    """Which of them are on the front."""
    names = [item.name for item, front in zip(candidates, on_front(candidates), strict=True) if front]
    return (
        f"On the Pareto front of size, latency, clean and robust {words_of(report).noun}, taken as their best "
        f"estimates: {'; '.join(names)}. Whatever is not on it is beaten by one that is no worse in any of the four."
    )


def _plot(
    candidates: Sequence[Candidate], front: Sequence[bool], kind: str, xs: Sequence[float], title: str, report: _Figures
) -> Plot:
    accuracies = [candidate.robust if kind == "robust" else candidate.clean for candidate in candidates]
    axis = accuracy_axis([found for found in accuracies if found], about=4)
    points = [
        _point(candidate, front[index], xs[index], accuracies[index] or {})
        for index, candidate in enumerate(candidates)
    ]
    noun = f"{kind} {words_of(report).noun}"
    across = linear_axis(0, max(xs))
    heading = f"{noun.capitalize()} against {title.split(',')[0]}"
    return plot_scatter(heading, points, across, axis, (title, f"{noun}, %{from_what(axis)}"))


def _point(candidate: Candidate, front: bool, x: float, accuracy: _Figures) -> Point:
    clean, robust = (
        f"{share(found['value'], candidate.samples)} %" if found else NOT_PROVEN
        for found in (candidate.clean, candidate.robust)
    )
    told = [
        size(candidate.size_bytes),
        f"p50 {milliseconds(candidate.latency_ms)}{' predicted' if candidate.predicted else ''}",
        f"clean {clean}",
        f"robust {robust}",
        *(["on the Pareto front"] if front else []),
    ]
    return Point(
        name=candidate.name,
        words=f"{candidate.name}: {', '.join(told)}",
        x=x,
        y=100 * accuracy["value"],
        low=100 * accuracy["low"],
        high=100 * accuracy["high"],
        style=engine_class(candidate.engine),
        emphasis=candidate.emphasis,
        href=candidate.href,
    )


def _goods(candidate: Candidate) -> tuple[float, ...]:
    """The four figures, more is better."""
    latency = float("inf") if candidate.latency_ms is None else candidate.latency_ms
    clean, robust = (-1.0 if found is None else float(found["value"]) for found in (candidate.clean, candidate.robust))
    return -candidate.size_bytes, -latency, clean, robust


def _dominates(other: tuple[float, ...], own: tuple[float, ...]) -> bool:
    return other != own and all(theirs >= mine for theirs, mine in zip(other, own, strict=True))
