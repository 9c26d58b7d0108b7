"""The gate for releases: a run's budgets, and what got worse since the last release."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pipeline.release.evidence import Asked, RunFigures
from pipeline.release.regression import Regression, RegressionConfig, regressions

FORMAT = "espalier-gate/1"


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """What the gate says of a run."""

    name: str
    device: str
    engine: str
    budgets: tuple[Asked, ...]
    regressions: tuple[Regression, ...]
    compared: bool
    """Whether there was a last release to compare with."""
    new_device: bool
    """Whether there is a last release, without this device, which was accepted as new."""
    measured: bool
    """Whether the engine ran; not when it was built ahead of time, without its device."""
    scored: bool
    """Whether it has an accuracy; not when it answers the same image differently each time."""

    @property
    def passed(self) -> bool:
        """Whether every budget is met and nothing got worse that was not accepted; a new device needs a budget."""
        proven = self.asked or not self.new_device
        return proven and all(budget.met for budget in self.budgets) and all(row.passed for row in self.regressions)

    @property
    def asked(self) -> bool:
        """Whether anything was asked: a budget, or a comparison with the last release. If not, nothing is proven."""
        return bool(self.budgets) or self.compared

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "format": FORMAT,
            "name": self.name,
            "device": self.device,
            "engine": self.engine,
            "passed": self.passed,
            "asked": self.asked,
            "compared": self.compared,
            "new_device": self.new_device,
            "measured": self.measured,
            "scored": self.scored,
            "budgets": [asdict(budget) | {"met": budget.met} for budget in self.budgets],
            "regressions": [asdict(row) | {"passed": row.passed} for row in self.regressions],
        }


def judge_release(run: RunFigures, last: RunFigures | None, config: RegressionConfig, new_device: bool) -> GateResult:
    """Judge a run; `last` is that of the last release, None where there is none or it has not this `new_device`.

    Raises `BundleError` for a last one of something else.
    """
    return GateResult(
        name=run.name,
        device=run.device,
        engine=run.engine,
        budgets=run.budgets,
        regressions=regressions(run, last, config) if last else (),
        compared=last is not None,
        new_device=new_device,
        measured=run.measured,
        scored=run.clean is not None,
    )
