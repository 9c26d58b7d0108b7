"""Which trials are on the Pareto front, and how much the front covers. Every objective here is to be low."""

from __future__ import annotations

from collections.abc import Sequence

Costs = tuple[float, ...]


def trial_name(number: int) -> str:
    """Name of a trial, by which its point can be chosen."""
    return f"trial-{number}"


def dominates(one: Costs, other: Costs) -> bool:
    """Whether `one` is nowhere worse and somewhere better (Deb et al. 2002, section III)."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def pareto_front(costs: Sequence[Costs]) -> list[int]:
    """Positions of the points that no other dominates, ascending; of equal ones the first."""
    found = []
    for position, own in enumerate(costs):
        beaten = any(dominates(other, own) for other in costs) or own in costs[:position]
        if not beaten:
            found.append(position)
    return found


def hypervolume(costs: Sequence[Costs], reference: Costs) -> float:
    """Volume that the points dominate below `reference` (Zitzler & Thiele 1998), exact for any number of objectives.

    By slices along the last objective (While et al. 2006, section III): between two neighbouring values of it, the
    volume is that of the points up to there in one objective less. Points not below the reference add nothing.
    """
    inside = [point for point in costs if all(a < b for a, b in zip(point, reference, strict=True))]
    inside = [inside[position] for position in pareto_front(inside)]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(point[0] for point in inside)
    ordered = sorted(inside, key=lambda point: point[-1])
    ends = [*(point[-1] for point in ordered[1:]), reference[-1]]
    return sum(
        (end - point[-1]) * hypervolume([item[:-1] for item in ordered[: rank + 1]], reference[:-1])
        for rank, (point, end) in enumerate(zip(ordered, ends, strict=True))
        if end > point[-1]
    )
