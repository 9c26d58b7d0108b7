"""A search as it runs: propose a generation, judge what is not in the journal, measure, tell, and so on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from devices.errors import DeviceError
from devices.stage import Progress
from pipeline.prune.allocate import Ranked
from pipeline.prune.groups import Unit, plan_for
from pipeline.search.front import trial_name
from pipeline.search.journal import Figures, Journal
from pipeline.search.objectives import EVALUATED, Objective, costs_of
from pipeline.search.propose import Proposal, Proposer
from pipeline.search.space import Space, units_for
from pipeline.search.workers import Evaluate

Count = Callable[[Sequence[Unit]], int]
"""A figure that is counted on the network without these units."""
Measure = Callable[[Sequence[Unit]], float]
"""A figure of the network without these units, measured on the device. It takes care itself that nothing else is
measured on this machine meanwhile."""


@dataclass(frozen=True)
class Done:
    """A trial that has all its figures."""

    proposal: Proposal
    figures: Figures


class Search:
    """One search. Results are told in the order of the trials, so it does not matter which ended first."""

    def __init__(
        self,
        *,
        space: Space,
        objectives: Sequence[Objective],
        total: int,
        network: nn.Module,
        ranked: Sequence[Ranked],
        counts: Mapping[str, Count],
        measures: Mapping[str, Measure],
        journal: Journal,
        evaluate: Evaluate,
        progress: Progress,
    ) -> None:
        """`counts` are figures of every trial, `measures` those of the objectives that are measured; `total` is not
        above the size of the space."""
        self._space, self._objectives, self._total = space, objectives, total
        self._network, self._ranked, self._counts = network, ranked, counts
        self._measures, self._journal = measures, journal
        self._evaluate, self._progress = evaluate, progress
        self._figures: dict[int, Figures] = {}
        self._judged = {*counts, *(item.name for item in objectives if item.name in EVALUATED)}
        self.ran = 0
        """Trials that were judged now, and not found in the journal."""

    @property
    def finished(self) -> int:
        """Trials that have all their figures."""
        return sum(figures.keys() >= self._judged | set(self._measures) for figures in self._figures.values())

    def run(self, proposer: Proposer, population: int) -> list[Done]:
        """All trials, in order. Raises `LostError` when the workers go away, and what a trial raises."""
        done: list[Done] = []
        while len(done) < self._total:
            proposals = proposer.ask(min(population, self._total - len(done)))
            numbers = range(len(done), len(done) + len(proposals))
            self._generation(dict(zip(numbers, proposals, strict=True)))
            proposer.tell([costs_of(self._objectives, self._figures[number]) for number in numbers])
            done += [Done(item, self._figures[number]) for number, item in zip(numbers, proposals, strict=True)]
        return done

    def _generation(self, proposals: Mapping[int, Proposal]) -> None:
        removed = {
            number: units_for(self._space.widths(item.point), self._ranked) for number, item in proposals.items()
        }
        for number, item in proposals.items():
            self._figures[number] = self._journal.figures(number, item.point)
        new = [number for number in proposals if not self._figures[number].keys() >= self._judged]
        tasks = [(number, plan_for(self._network, removed[number])) for number in new]
        for number, found in self._evaluate(tasks) if tasks else ():
            counted = {name: count(removed[number]) for name, count in self._counts.items()}
            self._keep(number, proposals[number], found | counted)
            self.ran += 1
        for number, item in proposals.items():
            for name, measure in self._measures.items():
                if name not in self._figures[number]:
                    self._keep(number, item, {name: _finite(measure(removed[number]), name, number)})

    def _keep(self, number: int, proposal: Proposal, figures: Figures) -> None:
        self._journal.add(number, proposal.point, figures)
        self._figures[number] |= figures
        shown = "accuracy" if "accuracy" in figures else next(iter(figures))
        self._progress(self.finished, self._total, f"{trial_name(number)}: {shown} {figures[shown]:.4g}")


def _finite(value: float, name: str, number: int) -> float:
    if not math.isfinite(value):
        raise DeviceError("search", f"'{name}' of {trial_name(number)} was measured as {value}", "Run again")
    return float(value)
