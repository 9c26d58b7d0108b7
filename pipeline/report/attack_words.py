"""Attacks and their sanity checks in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.figures import plural, share

_Figures = Mapping[str, Any]

_NAMES = {
    "fgsm": "FGSM",
    "pgd": "PGD",
    "apgd_ce": "APGD-CE",
    "apgd_dlr": "APGD-T",
    "fab": "FAB-T",
    "square": "Square",
}
TWIN = "twin"
"""Surrogate whose gradients pass the rounding of the INT8 graph."""
_AUTOATTACK = ("apgd_ce", "apgd_dlr", "fab", "square")


@dataclass(frozen=True, kw_only=True)
class SanityRow:
    """What the sanity checks of one surrogate found."""

    surrogate: str
    unlimited: str
    by_epsilon: str
    by_steps: str
    zero_gradients: str
    median_gradient: str
    notes: tuple[str, ...]


def attack_name(method: str) -> str:
    """How an attack is called in the literature."""
    return _NAMES.get(method, method.upper())


def made_by(row: _Figures) -> str:
    """What made an adversarial set: the attack, what it used of which network, and whether it was rounded."""
    used = "queries" if row["method"] == "square" else "gradients"
    said = f"{attack_name(row['method'])} by {used} of {row['surrogate']}"
    return f"{said}, as bytes" if row.get("rounded") else said


def attack_sentence(method: str, recipe: _Figures) -> str:
    """An attack with its budget."""
    asked = recipe["robustness"]
    if method == "fgsm":
        return "FGSM: one gradient step"
    if method == "pgd":
        size = asked["pgd_step_size"]
        of = f" of {size:g}" if size is not None else ""
        starts = plural(asked["pgd_restarts"], "random start")
        return f"PGD: {plural(asked['pgd_steps'], 'gradient step')}{of}, best of {starts}"
    known = attack_name(method)
    figures = {"apgd_ce": "apgd_steps", "apgd_dlr": "apgd_steps", "fab": "fab_steps", "square": "square_queries"}
    if method not in figures:
        return known
    given = asked[figures[method]]
    unit = "query" if method == "square" else "gradient step"
    if given is None:
        budget = f"budget {asked['budget']}"
    else:
        budget = plural(given, unit) if unit != "query" else f"{given:,} queries"
    aimed = ", towards the likeliest wrong classes" if method in ("apgd_dlr", "fab") else ""
    return f"{known}: {budget}{aimed}"


def ball_sentence(recipe: _Figures) -> str:
    """What ε is."""
    if recipe["robustness"].get("norm") == "l2":
        return "\N{GREEK SMALL LETTER EPSILON} is the length of all changes of an image together, of 0 to 1 (L2)"
    return "\N{GREEK SMALL LETTER EPSILON} is the largest change of a pixel, in 0 to 1 (L\N{INFINITY})"


def epsilon_cell(row: _Figures) -> str:
    """ε, and in Linf what it is in bytes."""
    if row.get("norm") == "l2":
        return f"{row['epsilon']:g} (L2)"
    return f"{row['epsilon']:g} ({255 * row['epsilon']:.3g}/255)"


def not_tried(report: _Figures, sets: Sequence[_Figures]) -> str:
    """What the attacks leave open; `sets` are the adversarial sets of the report."""
    asked, methods = report["recipe"]["robustness"], {row["method"] for row in sets}
    parts = [] if methods.issuperset(_AUTOATTACK) else ["stronger attacks (such as AutoAttack)"]
    if not parts and not _is_standard(asked):
        parts.append("the standard budget of AutoAttack")
    other = "L2" if asked.get("norm") == "l2" else "L\N{INFINITY}"
    queries = "more queries to the engine" if report.get("query_plan") else "query attacks on the engine itself"
    if not any(row["surrogate"] == TWIN for row in sets):
        parts.append("gradients through the rounding of an INT8 engine")
    parts += [queries, f"other norms than {other}", "a larger \N{GREEK SMALL LETTER EPSILON}"]
    tried = {threat["name"] for threat in report.get("threats", [])}
    parts += [] if "patch" in tried else ["patches"]
    return f"Not tried: {', '.join(parts)}, shifts and turns."


def _is_standard(asked: _Figures) -> bool:
    own = ("apgd_steps", "fab_steps", "targets", "square_queries")
    return asked["budget"] == "standard" and all(asked[key] is None for key in own)


def sanity_rows(report: _Figures) -> list[SanityRow]:
    """One row for each surrogate; none in reports of before there were such checks."""
    return [
        SanityRow(
            surrogate=row["surrogate"],
            unlimited=_percent(row["unlimited"], row),
            by_epsilon=_falling(row["by_epsilon"], row),
            by_steps=_falling(row["by_steps"], row),
            zero_gradients=_percent(row["zero_gradients"], row),
            median_gradient=f"{row['median_gradient']:.3g}",
            notes=tuple(row["notes"]),
        )
        for row in report.get("sanity", [])
    ]


def _falling(accuracies: Mapping[str, float], row: _Figures) -> str:
    # JSON keeps keys by their letters.
    ordered = sorted(accuracies.items(), key=lambda pair: float(pair[0]))
    return ", ".join(f"{at}: {_percent(value, row)}" for at, value in ordered)


def _percent(value: float, row: _Figures) -> str:
    return f"{share(value, row['samples'])} %"
