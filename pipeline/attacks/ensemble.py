"""Attacks by name and budget, AutoAttack's standard ensemble among them (Croce & Hein 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from devices.errors import RecipeError
from pipeline.attacks.apgd import apgd_ce, apgd_targeted
from pipeline.attacks.fab import fab_targeted
from pipeline.attacks.fgsm import fgsm
from pipeline.attacks.norms import Ball
from pipeline.attacks.pgd import pgd_run
from pipeline.attacks.square import square
from pipeline.attacks.victim import Attack, Batch, Found, Victim

AttackName = Literal["fgsm", "pgd", "apgd_ce", "apgd_dlr", "fab", "square"]
BudgetName = Literal["standard", "fast"]
AUTOATTACK: tuple[AttackName, ...] = ("apgd_ce", "apgd_dlr", "fab", "square")
"""APGD-CE, targeted APGD-DLR, FAB-T and Square, in the order in which the ensemble runs."""
OF_CLASSES = ("apgd_dlr", "fab")
"""Attacks that aim at classes: only a classifier has them."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much each attack may try."""

    apgd_steps: int
    """Gradient steps of APGD, by restart and by class aimed at."""
    fab_steps: int
    """Gradient steps of FAB, by restart and by class aimed at."""
    targets: int
    """Likeliest wrong classes that targeted APGD and FAB aim at; there are at most all but one."""
    square_queries: int
    """Of Square, by image."""
    restarts: int = 1
    """Of APGD and FAB."""
    pgd_steps: int = 20
    pgd_step_size: float | None = None
    """Largest change of a value in one step, or in L2 the step's length; None: 2.5 ε / steps, as Madry et al. take."""
    pgd_restarts: int = 2


STANDARD = Budget(apgd_steps=100, fab_steps=100, targets=9, square_queries=5000)
"""AutoAttack's version 'standard'."""
FAST = Budget(apgd_steps=20, fab_steps=20, targets=3, square_queries=500)
"""What two cores can run on a small network. It is not the standard, and a robust accuracy under it is an upper end."""
_BUDGETS: dict[BudgetName, Budget] = {"standard": STANDARD, "fast": FAST}
_MADRY = 2.5


def budget_named(name: BudgetName) -> Budget:
    """A budget by its name."""
    return _BUDGETS[name]


@dataclass(frozen=True)
class Leg:
    """One run of an attack over all samples: a restart, or a class aimed at."""

    attack: AttackName
    run: Attack
    passes: int
    """Gradients that it takes of each sample, about; an answer alone counts a third."""


def legs(name: AttackName, ball: Ball, budget: Budget, victim: Victim) -> tuple[Leg, ...]:
    """The runs that an attack consists of. Raises `RecipeError` when it aims at classes and the task has none."""
    if name in OF_CLASSES and not victim.classes:
        raise RecipeError(
            f"robustness.attacks: {name}",
            f"aims at classes, and the task is {victim.task.scoring.kind}",
            "Use fgsm, pgd, apgd_ce or square",
        )
    restarts, ranks = range(budget.restarts), range(min(budget.targets, victim.classes - 1))
    if name == "fgsm":
        return (Leg(name, _fgsm(ball), 1),)
    if name == "pgd":
        return tuple(Leg(name, _pgd(ball, budget, run), budget.pgd_steps) for run in range(budget.pgd_restarts))
    if name == "apgd_ce":
        steps = budget.apgd_steps
        return tuple(Leg(name, _apgd_ce(ball, steps, restart), steps) for restart in restarts)
    if name == "square":
        return (Leg(name, _square(ball, budget.square_queries), -(-budget.square_queries // 3)),)
    make, steps = (_apgd_targeted, budget.apgd_steps) if name == "apgd_dlr" else (_fab, budget.fab_steps)
    # FAB goes forward twice in a step.
    passes = steps if name == "apgd_dlr" else 2 * steps
    return tuple(Leg(name, make(ball, steps, restart, rank), passes) for restart in restarts for rank in ranks)


def expanded(names: tuple[str, ...]) -> tuple[AttackName, ...]:
    """Names with `autoattack` as the four that it stands for; each once."""
    known = get_args(AttackName)
    each = [part for name in names for part in (AUTOATTACK if name == "autoattack" else (name,))]
    return tuple(name for name in known if name in each)


def _fgsm(ball: Ball) -> Attack:
    def run(victim: Victim, batch: Batch, leave: bool) -> Found:  # noqa: ARG001  nothing lasts long enough to leave
        images = fgsm(victim.network, batch.clean, batch.truth, ball.epsilon, victim.summed_loss, ball.norm)
        return victim.judged(images, batch)

    return run


def _pgd(ball: Ball, budget: Budget, restart: int) -> Attack:
    step_size = budget.pgd_step_size or _MADRY * ball.epsilon / budget.pgd_steps

    def run(victim: Victim, batch: Batch, leave: bool) -> Found:  # noqa: ARG001  only its last point is looked at
        return pgd_run(victim, batch, ball, budget.pgd_steps, step_size, restart)

    return run


def _apgd_ce(ball: Ball, steps: int, restart: int) -> Attack:
    return lambda victim, batch, leave: apgd_ce(victim, batch, ball, steps, restart, leave)


def _apgd_targeted(ball: Ball, steps: int, restart: int, rank: int) -> Attack:
    return lambda victim, batch, leave: apgd_targeted(victim, batch, ball, steps, restart, rank, leave)


def _fab(ball: Ball, steps: int, restart: int, rank: int) -> Attack:
    return lambda victim, batch, leave: fab_targeted(victim, batch, ball, steps, restart, rank, leave)


def _square(ball: Ball, queries: int) -> Attack:
    return lambda victim, batch, leave: square(victim, batch, ball, queries, 0, leave)
