"""What a search weighs: figures of a trial, which way each is to go, and where the hypervolume is taken from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from devices.errors import RecipeError
from pipeline.search.front import Costs, hypervolume

EVALUATED = ("accuracy", "loss", "macs", "parameters", "robust_accuracy", "size_bytes")
"""Figures that every trial can report, besides those that are measured on the device."""
_COSTS = ("latency_ms", "macs", "parameters", "size_bytes")


@dataclass(frozen=True)
class Objective:
    """One figure of a trial."""

    name: str

    @property
    def rises(self) -> bool:
        """Whether more is better: of accuracies; of all else less is."""
        return self.name.endswith("accuracy")

    def cost(self, figures: Mapping[str, float]) -> float:
        """The figure as something to be low."""
        return -figures[self.name] if self.rises else figures[self.name]

    def reference(self, dense: Mapping[str, float]) -> float | None:
        """Where the hypervolume ends: no accuracy, or the cost of the whole network; None where there is no such."""
        if self.rises:
            return 0.0
        return dense[self.name] if self.name in _COSTS else None


def read_objectives(names: Sequence[str], measured: Collection[str]) -> tuple[Objective, ...]:
    """The recipe's objectives. Raises `RecipeError` when one is not a figure of a trial."""
    known = sorted({*EVALUATED, *measured})
    for name in names:
        if name == "latency_ms" and name not in known:
            what = "'latency_ms' cannot be measured: no engine for this device runs here"
            raise RecipeError("search.objectives", what, "Use macs in its place")
        if name not in known:
            what = f"'{name}' is not a figure of a trial; there are {', '.join(known)}"
            raise RecipeError("search.objectives", what, "Correct it")
    return tuple(Objective(name) for name in names)


def costs_of(objectives: Sequence[Objective], figures: Mapping[str, float]) -> Costs:
    """A trial as a point of which every coordinate is to be low."""
    return tuple(objective.cost(figures) for objective in objectives)


def covered(
    objectives: Sequence[Objective], trials: Sequence[Mapping[str, float]], dense: Mapping[str, float]
) -> float | None:
    """Hypervolume of the trials, each objective scaled to 0 to 1 between its best possible value and its reference.

    Accuracy counts from 0 to 1, a cost from the whole network's to nothing. None when an objective has no reference.
    """
    scaled = []
    for figures in trials:
        point = []
        for objective in objectives:
            reference = objective.reference(dense)
            if reference is None:
                return None
            point.append(1 - figures[objective.name] if objective.rises else figures[objective.name] / reference)
        scaled.append(tuple(point))
    return hypervolume(scaled, (1.0,) * len(objectives))
