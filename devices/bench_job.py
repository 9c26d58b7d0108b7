"""What is asked of a bundle's engine: for how long, in which scenarios, beside what."""

from __future__ import annotations

from dataclasses import dataclass

from devices.latency import LatencyConfig
from devices.measure import MeasurePlan
from devices.preprocess import Preprocess
from devices.scenarios import ScenarioConfig
from devices.sustained import SustainedConfig
from devices.trust.store import Trust

SHIPPED = "engine"
OTHER = "against"


@dataclass(frozen=True, kw_only=True)
class BenchJob:
    """A deploy bundle (input `bundle`) measured, beside another (input `against`) where there is one."""

    seconds: float
    """Of the measurement that every other is beside, all engines together."""
    trust: Trust
    """Whose bundles are measured."""
    scenarios: ScenarioConfig | None = None
    """MLPerf's scenarios."""
    sustained_s: float | None = None
    """Back to back for so long, with the device watched."""
    power_mode: str | None = None
    """Name of the mode that the device should be in; another is said, never switched."""

    @property
    def lasts_s(self) -> float:
        """What is asked for beside the first measurement takes about so long."""
        return (self.scenarios.lasts_s if self.scenarios else 0.0) + (self.sustained_s or 0.0)

    def plan(self, preprocess: Preprocess, compared: bool) -> MeasurePlan:
        """The same as a plan for the measure stage."""
        return MeasurePlan(
            baseline=OTHER if compared else SHIPPED,
            shipped=SHIPPED,
            batch_sizes=(),
            latency=LatencyConfig(duration_s=self.seconds),
            power_mode=self.power_mode,
            scenarios=self.scenarios,
            sustained=SustainedConfig(duration_s=self.sustained_s) if self.sustained_s else None,
            preprocess=preprocess,
        )
