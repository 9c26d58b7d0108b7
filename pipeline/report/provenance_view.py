"""The provenance tree: what each result was made of, from the sources to the engine that ships."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from pipeline.report.svg import element

_DIGITS = 12
_Figures = Mapping[str, Any]


def provenance_tree(report: _Figures) -> Markup | None:
    """Results as nested lists, each once, below the last of those that it needs; None in reports that do not tell."""
    stages = {stage["name"]: stage for stage in report["stages"]}
    if not any(stage.get("needs") for stage in stages.values()):
        return None
    children: dict[str | None, list[str]] = {}
    for name, stage in stages.items():
        needs = [need for need in stage.get("needs", []) if need in stages]
        children.setdefault(needs[-1] if needs else None, []).append(name)
    shipped = f"engine {report['shipped']}"
    return _below(None, stages, children, _sources_of(shipped, stages))


def _sources_of(name: str, stages: Mapping[str, _Figures]) -> frozenset[str]:
    """This result and all that it was made of."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        at = waiting.pop()
        if at in stages and at not in found:
            found.add(at)
            waiting += stages[at].get("needs", [])
    return frozenset(found)


def _below(
    parent: str | None, stages: Mapping[str, _Figures], children: Mapping[str | None, list[str]], line: frozenset[str]
) -> Markup:
    items = []
    for name in children.get(parent, []):
        stage = stages[name]
        others = [need for need in stage.get("needs", [])[:-1] if need in stages]
        also = (
            f", with {', '.join(others)}" if 0 < len(others) <= 4 else f", with {len(others)} others" if others else ""
        )
        said = element(
            "span",
            element("span", name, class_="strong" if name in line else "name"),
            f" {stage['stage']}{also} ",
            element("code", stage["digest"][:_DIGITS], title=stage["digest"]),
        )
        inner = _below(name, stages, children, line) if name in children else Markup()
        items.append(element("li", said, inner))
    return element("ul", *items, **({} if parent else {"class_": "tree"}))
