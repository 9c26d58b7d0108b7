"""The gate: budgets against results. A budget is met when even the bad end of the figure's interval meets it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from devices.scoring import Scoring, kind_of
from pipeline.budget_rule import is_met
from pipeline.engine_plan import engine_title
from pipeline.recipe import GateConfig
from pipeline.threats.budgets import threat_figures
from pipeline.threats.steady import without_unsteady

_Figure = tuple[float, float, float] | None
"""Value, low and high end; None when it is not known."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """One budget of the recipe and what became of it."""

    name: str
    """Key in the recipe's [gate]."""
    text: str
    """What it asks, in words."""
    limit: float
    unit: str
    value: float | None
    """The figure; None when it is not known, which refuses."""
    low: float | None
    high: float | None
    met: bool


@dataclass(frozen=True)
class Verdict:
    """Pass or refused, budget by budget."""

    budgets: tuple[Budget, ...]

    @property
    def passed(self) -> bool:
        """Whether every budget is met."""
        return all(budget.met for budget in self.budgets)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"passed": self.passed, "budgets": [asdict(budget) for budget in self.budgets]}


def judge(
    config: GateConfig,
    measurements: Mapping[str, Any],
    replays: Mapping[str, Any] | None,
    shipped: str,
    baseline: str = "dense-fp32",
    scans: Sequence[Mapping[str, Any]] = (),
    threats: Sequence[Mapping[str, Any]] = (),
) -> Verdict:
    """Judge the shipped engine. `measurements`, `replays`, `scans` and `threats` are metrics of the stages of that.

    What was not measured is not met: without attacks, robustness is not proven and a budget on it refuses. Neither is
    what the graph of an engine answers of the engine itself, nor anything that one answers at random.
    """
    engine = measurements["engines"][shipped]
    of_engines = replays is not None and replays.get("of") != "graph"
    accuracy = replays["engines"][shipped] if replays and of_engines else {"clean": None, "robust": None}
    noun = Scoring(kind=kind_of(replays.get("task") if replays else None)).noun
    clean, robust = accuracy["clean"], accuracy["robust"]
    against = engine_title(baseline).replace(",", "")
    lost = f"lost against {against}"
    size = float(engine["size_bytes"])
    steady = without_unsteady(threats, replays or {}, baseline)
    figures: tuple[tuple[str, str, str, _Figure], ...] = (
        ("max_accuracy_drop", f"clean {noun} {lost}", "points", _drop(clean, shipped, baseline)),
        ("min_accuracy", f"clean {noun}", "%", _percent(clean)),
        ("min_mean_iou", "mean IoU of the clean images", "%", _percent(accuracy.get("mean_iou"))),
        ("min_mean_ap", "mean average precision, clean", "%", _percent(accuracy.get("mean_ap"))),
        ("max_robust_accuracy_drop", f"robust {noun} {lost}", "points", _drop(robust, shipped, baseline)),
        ("min_robust_accuracy", f"robust {noun}, worst case of all attacks", "%", _percent(robust)),
        (
            "max_corruption_error_ratio",
            f"error on corrupted images, times that of {against}",
            "x",
            _error_ratio(accuracy.get("corruption"), shipped, baseline),
        ),
        ("max_backdoor_signs", "signs of a backdoor", "in all scans", _signs(scans)),
        *threat_figures(() if of_engines and clean is None else steady, shipped),
        ("max_p99_ms", "99th percentile of latency", "ms", _p99(engine["latency"])),
        ("max_size_bytes", "size of the engine", "bytes", (size, size, size)),
        ("min_speedup_dense", f"times faster than {against}", "x", _speedup(measurements, shipped, baseline)),
        ("min_speedup_dense_fp32", "times faster than dense FP32", "x", _speedup(measurements, shipped, "dense-fp32")),
        ("min_speedup_dense_int8", "times faster than dense INT8", "x", _speedup(measurements, shipped, "dense-int8")),
    )
    limits = config.model_dump(exclude_none=True)
    return Verdict(
        tuple(_budget(limits[name], name, text, unit, figure) for name, text, unit, figure in figures if name in limits)
    )


def _budget(limit: float, name: str, text: str, unit: str, figure: _Figure) -> Budget:
    value, low, high = figure or (None, None, None)
    met = is_met(name, limit, low, high)
    return Budget(name=name, text=text, limit=limit, unit=unit, value=value, low=low, high=high, met=met)


def _figure(interval: Mapping[str, float]) -> _Figure:
    return interval["value"], interval["low"], interval["high"]


def _percent(interval: Mapping[str, float] | None) -> _Figure:
    return (100 * interval["value"], 100 * interval["low"], 100 * interval["high"]) if interval else None


def _signs(scans: Sequence[Mapping[str, Any]]) -> _Figure:
    """Not known where a network was looked at and no method judged it: a scan that only tells proves nothing.

    The first network has no finding at all where nothing but what stages woke is looked for.
    """
    looked = [scan["findings"] for scan in scans if scan["findings"]]
    if not looked or any(all(finding["threshold"] is None for finding in findings) for findings in looked):
        return None
    count = float(sum(finding["sign"] for findings in looked for finding in findings))
    return count, count, count


def _p99(latency: Mapping[str, Any] | None) -> _Figure:
    """Known only when so many queries ran that one was slower than the true percentile (but for 2.5 %)."""
    if latency is None:
        return None
    return _figure(latency["p99_ms"]) if 0.99 ** latency["queries"] <= 0.025 else None


def _drop(accuracy: Mapping[str, Any] | None, shipped: str, baseline: str) -> _Figure:
    """Points lost against the baseline; the interval turns round with the sign."""
    if not accuracy:
        return None
    if shipped == baseline:
        return 0.0, 0.0, 0.0
    gained = accuracy["difference"]
    if gained is None:
        return None
    # `0.0 -` and not `-`: nothing lost is 0, not -0.
    return 0.0 - 100 * gained["value"], 0.0 - 100 * gained["high"], 0.0 - 100 * gained["low"]


def _error_ratio(corruption: Mapping[str, Any] | None, shipped: str, baseline: str) -> _Figure:
    if not corruption:
        return None
    if shipped == baseline:
        return 1.0, 1.0, 1.0
    return _figure(corruption["error_ratio"]) if corruption["error_ratio"] else None


def _speedup(measurements: Mapping[str, Any], shipped: str, than: str) -> _Figure:
    # Known without measuring, but of an engine that was not measured nothing is said.
    if shipped == than and measurements["engines"][shipped]["latency"] is not None:
        return 1.0, 1.0, 1.0
    for ratio in measurements["speedups"]:
        if (ratio["engine"], ratio["than"]) == (shipped, than):
            return _figure(ratio)
    return None
