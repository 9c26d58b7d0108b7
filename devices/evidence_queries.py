"""Queries on a board: planned and compared by what the run asked the same engines, as its evidence tells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.agent_config import decode
from devices.attack import REPLAY_FILE, WITHSTOOD
from devices.clipping import Norm
from devices.errors import BundleError, DataError
from devices.masking import fp32_twin
from devices.outcome import Outcome, masking_verdict, unsteady
from devices.queries.plan import QueryPlan
from devices.robustness import EvaluationSets

_RESULTS = f"results/{REPLAY_FILE}"
_SAMPLES = 100
_MAKE_AGAIN = "Make the evidence bundle again"


def plan_of(evidence: Any, sets: EvaluationSets, queries: int) -> QueryPlan:
    """The run's own plan with so many queries; Square on the first 100 samples where the run asked nothing.

    `evidence` is a verified bundle. Raises `DataError` when neither plan nor sets say how far an image may be changed.
    """
    planned = _planned(evidence)
    if planned is not None:
        return replace(planned, queries=queries)
    balls = [(info.norm, info.epsilon) for info in sets.infos if info.kind == "adversarial" and info.epsilon]
    if not balls:
        what = "name no ε: they hold no adversarial set, and the run asked no queries"
        raise DataError("evaluation sets", what, "Give evidence of a run that was attacked")
    # One run has one norm; of sets put together from several, as long as any is of it, Linf.
    norm: Norm = "linf" if any(norm == "linf" for norm, _ in balls) else "l2"
    epsilon = max(radius for of, radius in balls if of == norm)
    return QueryPlan(attacks=("square",), queries=queries, samples=_SAMPLES, epsilon=epsilon, norm=norm)


def masking_on_board(found: Outcome, evidence: Any, engine: str, plan: QueryPlan | None) -> dict[str, object] | None:
    """The verdict on an engine; its FP32 twin's answers are those of the run, where that asked by the same plan."""
    if not found.is_steady:
        return unsteady(found.alike)
    if found.queried is None:
        return None
    twins: dict[str, tuple[str, NDArray[np.bool_]]] = {}
    if plan is not None and plan == _planned(evidence):
        withstood = _results(evidence).get(WITHSTOOD, {})
        twin = fp32_twin(engine, withstood)
        rows = withstood[twin] if twin else {}
        for method, text in rows.items() if isinstance(rows, dict) else ():
            right = np.array([mark == "1" for mark in str(text)])
            if right.size == found.queried.samples:
                twins[method] = (f"{twin}, in the run", right)
    return masking_verdict(found, twins).as_dict()


def _planned(evidence: Any) -> QueryPlan | None:
    raw, where = _results(evidence).get("query_plan"), f"{evidence.folder / _RESULTS}: query_plan"
    if raw is None:
        return None
    plan = decode(QueryPlan, raw, where)
    # Written so that "not a number" fails too.
    if not (plan.queries > 0 and plan.samples > 0 and 0 < plan.epsilon < float("inf") and plan.seed >= 0):
        raise BundleError(where, "holds a figure that is not above 0", _MAKE_AGAIN)
    return plan


def _results(evidence: Any) -> dict[str, Any]:
    """What the run's attack stage wrote; nothing where the bundle does not hold it."""
    if _RESULTS not in evidence.digests:
        return {}
    content = evidence.read_json(_RESULTS)
    if not isinstance(content, dict) or not isinstance(content.get(WITHSTOOD, {}), dict):
        raise BundleError(str(evidence.folder / _RESULTS), "is not what a run's attacks leave", _MAKE_AGAIN)
    found: dict[str, Any] = content
    return found
