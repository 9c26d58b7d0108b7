"""Results for the gate to judge, whose figures are known."""

from __future__ import annotations

from typing import Any

from pipeline.gate import Verdict, judge
from pipeline.recipe import GateConfig


def interval(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def measured() -> dict[str, Any]:
    """The shipped engine: p99 2 ms (1.9 to 2.1), 1,000 bytes, 4 times (3.5 to 4.5) and 2 times (1.8 to 2.2) as fast."""
    return {
        "engines": {
            "compressed-int8": {"latency": {"p99_ms": interval(2.0, 1.9, 2.1), "queries": 1000}, "size_bytes": 1000}
        },
        "speedups": [
            {"engine": "compressed-int8", "than": "dense-fp32"} | interval(4.0, 3.5, 4.5),
            {"engine": "compressed-int8", "than": "dense-int8"} | interval(2.0, 1.8, 2.2),
            {"engine": "dense-int8", "than": "dense-fp32"} | interval(9.0, 9.0, 9.0),
        ],
    }


def replayed(robust: bool = True) -> dict[str, Any]:
    """97 % clean (96 to 98), 1 point lost (0.5 to 1.5); 85 % robust (82 to 88), 3 points lost (1 to 5)."""
    result: dict[str, Any] = {"clean": interval(0.97, 0.96, 0.98) | {"difference": interval(-0.01, -0.015, -0.005)}}
    result["robust"] = interval(0.85, 0.82, 0.88) | {"difference": interval(-0.03, -0.05, -0.01)} if robust else None
    return {"engines": {"compressed-int8": result}}


def verdict(robust: bool = True, **budgets: float) -> Verdict:
    return judge(GateConfig.model_validate(budgets), measured(), replayed(robust), "compressed-int8")


def figures(judged: Verdict) -> tuple[float | None, float | None, float | None]:
    (budget,) = judged.budgets
    return budget.value, budget.low, budget.high
