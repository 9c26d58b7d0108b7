"""Steps on the built engines: measure and attack."""

from __future__ import annotations

from pathlib import Path

from devices.engine_files import read_info
from devices.latency import LatencyConfig
from devices.measure import MeasurePlan
from devices.preprocess import Preprocess
from devices.scenarios import ScenarioConfig
from devices.stage import Metrics
from devices.sustained import SustainedConfig
from pipeline.place import place_of
from pipeline.queries import query_plan
from pipeline.work import StepInputs, Work

_ENGINE_PREFIX = "engine "


def measure(inputs: StepInputs) -> Metrics:
    """Latency, throughput, load time, memory and size of all engines."""
    engines = _engines(inputs)
    plan = measure_plan(inputs.work, read_info(engines[inputs.work.baseline]).input_shape)
    return place_of(inputs.work).measure(engines, plan, inputs.folder, inputs.progress)


def measure_plan(work: Work, input_shape: tuple[int, int, int]) -> MeasurePlan:
    """What the recipe asks of engines that take images of this shape (C, H, W)."""
    wanted, seed = work.recipe.measure, work.recipe.seed
    channels, height, width = input_shape
    scenarios = ScenarioConfig(
        scenarios=wanted.scenarios,
        min_duration_s=wanted.scenario_s,
        min_queries=wanted.scenario_queries,
        max_duration_s=max(1200.0, 2 * wanted.scenario_s),
        offline_samples=wanted.offline_samples,
        server_target_ms=wanted.server_target_ms,
        seed=seed,
    )
    return MeasurePlan(
        baseline=work.baseline,
        shipped=work.candidate,
        may_ship=work.rivals,
        batch_sizes=work.profile.measure.batch_sizes,
        latency=LatencyConfig(duration_s=wanted.duration_s, warmup_s=wanted.warmup_s, seed=seed),
        processes=wanted.processes,
        power_mode=wanted.power_mode,
        scenarios=scenarios if wanted.scenarios else None,
        sustained=SustainedConfig(duration_s=wanted.sustained_s) if wanted.sustained_s else None,
        preprocess=Preprocess(channels=channels, height=height, width=width),
    )


def attack(inputs: StepInputs) -> Metrics:
    """Evaluation sets through all engines, then queries to them."""
    work = inputs.work
    place, sets = place_of(work), inputs.path("sets")
    return place.attack(_engines(inputs), work.baseline, sets, inputs.folder, inputs.progress, query_plan(work.recipe))


def _engines(inputs: StepInputs) -> dict[str, Path]:
    return {
        node.removeprefix(_ENGINE_PREFIX): stored.folder
        for node, stored in inputs.results.items()
        if node.startswith(_ENGINE_PREFIX)
    }
