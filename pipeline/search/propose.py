"""Which points to try next: Optuna's NSGA-II, asked for a generation at a time."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import numpy as np

from devices.errors import RecipeError
from devices.extras import install
from pipeline.search.front import Costs
from pipeline.search.space import Indices, Space, unseen_point

if TYPE_CHECKING:
    from optuna.samplers import NSGAIISampler
    from optuna.trial import Trial

Origin = Literal["uniform", "random", "genetic"]

# In a small space crossover finds known points most of the time.
_ASKED_AGAIN = 20
# Distribution index of the mutation: from the middle, half of its steps are shorter than 11 % of the range.
_ETA = 5.0


@dataclass(frozen=True)
class Proposal:
    """A point to try, and where it comes from: one share for all groups, chance, or NSGA-II."""

    point: Indices
    origin: Origin


class Proposer:
    """NSGA-II by Optuna (Deb et al. 2002) with uniform crossover and polynomial mutation, of one group on average.

    Its answers follow from seed and costs told alone, so a study comes back by being asked and told again. A point that
    was proposed before is not proposed twice: NSGA-II is asked again, and in the end chance decides.
    """

    def __init__(self, space: Space, objectives: int, population: int, seed: int, first: Sequence[Indices]) -> None:
        """`first` are points to begin with. Raises `RecipeError` where Optuna is not installed."""
        optuna = _optuna()
        said = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            self._study = optuna.create_study(
                directions=["minimize"] * objectives,
                sampler=_sampler(optuna, population, seed),
            )
        finally:
            optuna.logging.set_verbosity(said)
        self._failed = optuna.trial.TrialState.FAIL
        self._space = space
        self._axes = {
            str(position): optuna.distributions.IntDistribution(0, len(axis.choices) - 1)
            for position, axis in enumerate(space.axes)
        }
        self._rng = np.random.default_rng(seed)
        self._first = list(first)
        self._seen: set[Indices] = set()
        self._told = False
        self._asked: list[Trial] = []

    def ask(self, count: int) -> list[Proposal]:
        """So many points, all new, or as many as there are left."""
        count = min(count, self._space.size - len(self._seen))
        return [self._ask_one() for _ in range(count)]

    def tell(self, costs: Sequence[Costs]) -> None:
        """The costs of all points of the last `ask`, in its order."""
        for trial, values in zip(self._asked, costs, strict=True):
            self._study.tell(trial, list(values))
        self._asked = []
        self._told = True

    def _ask_one(self) -> Proposal:
        if self._first:
            return self._take(self._first.pop(0), "uniform")
        for _ in range(_ASKED_AGAIN):
            trial = self._study.ask(self._axes)
            point = tuple(trial.params[name] for name in self._axes)
            if point not in self._seen:
                self._seen.add(point)
                self._asked.append(trial)
                return Proposal(point, "genetic" if self._told else "random")
            self._study.tell(trial, state=self._failed)
        return self._take(unseen_point(self._space, self._seen, self._rng), "random")

    def _take(self, point: Indices, origin: Origin) -> Proposal:
        self._study.enqueue_trial(dict(zip(self._axes, point, strict=True)))
        self._asked.append(self._study.ask(self._axes))
        self._seen.add(point)
        return Proposal(point, origin)


def _sampler(optuna: ModuleType, population: int, seed: int) -> NSGAIISampler:
    with warnings.catch_warnings():
        # Optuna may change the interface of its mutations; ours is held by the range of versions.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # Widths are ordered: a width near a good one says more than one drawn anew, as Optuna does without a mutation.
        mutation = optuna.samplers.nsgaii.PolynomialMutation(eta=_ETA)
        sampler: NSGAIISampler = optuna.samplers.NSGAIISampler(seed=seed, population_size=population, mutation=mutation)
    return sampler


def _optuna() -> ModuleType:
    try:
        import optuna
    except ModuleNotFoundError as cause:
        raise RecipeError("search", "needs Optuna, which is not installed", install("search")) from cause
    return optuna
