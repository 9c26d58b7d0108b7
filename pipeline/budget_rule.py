"""When a budget is met: the one rule of the gate, for those who judge a run and for those who read a verdict."""

from __future__ import annotations


def is_met(name: str, limit: float, low: float | None, high: float | None) -> bool:
    """Whether even the bad end of the figure's interval meets the limit; what is not known does not.

    `name` begins with `max_` or `min_`, as the keys of a recipe's [gate] do.
    """
    bad = high if name.startswith("max_") else low
    return bad is not None and (bad <= limit if name.startswith("max_") else bad >= limit)
