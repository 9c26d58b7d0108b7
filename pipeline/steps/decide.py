"""Step: which engine ships, by what was measured."""

from __future__ import annotations

from devices.files import write_json
from devices.ship import ShipDecision, Verdict, decide_precision
from devices.stage import Metrics
from devices.statistics import Interval
from pipeline.results import figures_of, is_measured
from pipeline.work import StepInputs

DECISION_FILE = "decision.json"


def decide(inputs: StepInputs) -> Metrics:
    """The candidate, or what it was measured not to beat. The file holds the choice, and no figure: equal choices make
    equal bundles."""
    work = inputs.work
    decision = _decision(inputs)
    engine = f"{work.form}-{decision.precision}"
    write_json(inputs.folder / DECISION_FILE, {"engine": engine, "asked": work.candidate})
    return {"engine": engine, "asked": work.candidate, **decision.as_dict()}


def _decision(inputs: StepInputs) -> ShipDecision:
    work, plan = inputs.work, inputs.work.engines
    candidate = plan.candidate
    if not plan.rivals:
        return _asked(candidate, "only one", f"{candidate} is the only precision that was built")
    if not is_measured(inputs.results):
        reason = f"{candidate} was not measured against {' and '.join(plan.rivals)}: that it is faster is not proven"
        return _asked(candidate, "not measured", reason)
    speedups = {(row["engine"], row["than"]): row for row in figures_of(inputs.results)["speedups"]}
    ratios: dict[str, Interval] = {
        precision: _interval(speedups[work.candidate, rival])
        for precision, rival in zip(plan.rivals, work.rivals, strict=True)
    }
    decision = decide_precision(candidate, ratios)
    if work.recipe.quantize.only_if_faster or decision.precision == candidate:
        return decision
    said = decision.reason.rpartition(":")[0]
    reason = f"{said}; it is shipped all the same, as quantize.only_if_faster is false"
    return _asked(candidate, decision.verdict, reason)


def _asked(candidate: str, verdict: Verdict, reason: str) -> ShipDecision:
    return ShipDecision(precision=candidate, candidate=candidate, verdict=verdict, reason=reason)


def _interval(row: dict[str, float]) -> Interval:
    return Interval(row["value"], row["low"], row["high"])
