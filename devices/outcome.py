"""All that an engine was tried with, and what is left of its accuracy: sets that were replayed, and queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from devices.masking import Masking, fp32_twin, judge_masking
from devices.queries.evaluate import Queried, QueryResult
from devices.queries.plan import QueryAttack, QueryPlan
from devices.robustness import Replay, accuracy, difference
from devices.steadiness import STEADY, unsteady_words


@dataclass(frozen=True)
class Outcome:
    """One engine's answers."""

    replay: Replay
    queried: QueryResult | None = None

    @property
    def alike(self) -> float:
        """Share of the clean images that were answered alike twice, the least that was seen."""
        return min(self.replay.alike, self.queried.steady) if self.queried else self.replay.alike

    @property
    def is_steady(self) -> bool:
        """Whether its answers mean anything; of an engine that answers at random nothing is scored."""
        return self.alike >= STEADY

    @property
    def has_attacks(self) -> bool:
        """Whether anything was tried; without, robustness is not proven."""
        return self.replay.has_attacks or bool(self.queried and self.queried.attacks)

    @property
    def worst_case(self) -> NDArray[Any]:
        """Right or wrong (or the score) of each sample under all that was tried, (N,).

        Queries are asked about the first samples only. Where no set was replayed, the others met no attack at all and
        do not count.
        """
        worst = self.replay.worst_case.copy()
        if self.queried is None:
            return worst
        for attack in self.queried.attacks:
            worst[: self.queried.samples] &= attack.right
        return worst if self.replay.has_attacks else worst[: self.queried.samples]


def query_rows(found: Outcome, baseline: Outcome, plan: QueryPlan | None) -> list[dict[str, object]]:
    """What each attack by queries left, with its interval, and the difference to the baseline under the same seeds."""
    if found.queried is None or plan is None or not found.is_steady:
        return []
    before = _by_method(baseline) if baseline.is_steady else {}
    return [
        {
            "method": attack.method,
            "norm": plan.norm,
            "epsilon": plan.epsilon,
            "budget": plan.queries,
            "samples": found.queried.samples,
            "queries": int(attack.queries.sum()),
            **accuracy(attack.right).as_dict(),
            "difference": difference(before[attack.method].right, attack.right).as_dict()
            if attack.method in before
            else None,
        }
        for attack in found.queried.attacks
    ]


def masking_of(name: str, outcomes: Mapping[str, Outcome]) -> dict[str, object] | None:
    """The verdict on an engine, by the attack that speaks most against it; None where no queries were asked.

    One that answers at random is told as unknown in any case.
    """
    found = outcomes[name]
    if not found.is_steady:
        return unsteady(found.alike)
    if found.queried is None:
        return None
    twin = fp32_twin(name, outcomes)
    twin_attacks = _by_method(outcomes[twin]) if twin else {}
    return masking_verdict(
        found, {method: (str(twin), attack.right) for method, attack in twin_attacks.items()}
    ).as_dict()


def unsteady(steady: float) -> dict[str, object]:
    """The verdict on an engine that answers the same images differently."""
    return {"finding": "unknown", "words": unsteady_words(steady)}


def masking_verdict(found: Outcome, twins: Mapping[str, tuple[str, NDArray[np.bool_]]]) -> Masking:
    """The same, of answers of the FP32 twin by method; masked before level before weak.

    Sets that were made without gradients are no white box.
    """
    assert found.queried is not None
    samples = found.queried.samples
    gradients = {
        info.name: found.replay.scores["clean"][:samples] & found.replay.scores[info.name][:samples]
        for info in found.replay.infos
        if info.kind == "adversarial" and info.method not in get_args(QueryAttack)
    }
    verdicts = [
        judge_masking(attack.method, attack.right, twins.get(attack.method), gradients)
        for attack in found.queried.attacks
    ]
    order = ("masked", "level", "weak", "unknown")
    return min(verdicts, key=lambda verdict: order.index(verdict.finding))


def _by_method(outcome: Outcome) -> dict[str, Queried]:
    return {attack.method: attack for attack in outcome.queried.attacks} if outcome.queried else {}
