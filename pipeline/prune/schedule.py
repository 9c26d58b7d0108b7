"""How the work of a pruning schedule is divided over its steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from devices.errors import RecipeError

if TYPE_CHECKING:
    from pipeline.prune.budget import Budget
    from pipeline.recipe import PruneConfig


def share_at(config: PruneConfig, step: int) -> float:
    """Share of all that goes that is gone after this step, from 0 at step 0 to 1 at the last.

    `polynomial`: 1 - (1 - k/n)^power after step k of n; eq. 1 of Zhu & Gupta 2017 from a sparsity of zero, with their
    exponent of 3 as a parameter. `linear`: k/n. Raises `ValueError` when there is no such step.
    """
    if not 0 <= step <= config.steps:
        raise ValueError(f"step {step} of {config.steps}")
    time = step / config.steps
    return float(1 - (1 - time) ** config.power) if config.schedule == "polynomial" else time


def limit_at(config: PruneConfig, budget: Budget, step: int) -> float:
    """What the network may cost after this step: on the way from its dense cost to the budget's limit."""
    if step == config.steps:
        # To the last digit, which the way there would round.
        return budget.limit
    on_the_way = budget.dense - share_at(config, step) * (budget.dense - budget.limit)
    # Rounding must not take a step below the last.
    return max(on_the_way, budget.limit) if budget.limit <= budget.dense else on_the_way


def epochs_of(total: int, steps: int) -> tuple[int, ...]:
    """`total` epochs over the steps of a schedule, what does not divide going to the last. Raises `RecipeError`."""
    if total < steps:
        what = f"is {total}, and prune.steps is {steps}"
        raise RecipeError("finetune.epochs", what, "Give each step an epoch or more")
    share, rest = divmod(total, steps)
    return tuple(share + (step >= steps - rest) for step in range(steps))
