"""Steps on the built engines: measure and attack."""

from __future__ import annotations

from pathlib import Path

from devices.attack import attack_engines
from devices.errors import BundleError
from devices.files import read_json
from devices.latency import LatencyConfig
from devices.measure import MeasurePlan, measure_engines
from devices.robustness import INDEX_FILE, read_sets
from devices.stage import Metrics
from pipeline.tasks.select import task_of
from pipeline.work import StepInputs

_ENGINE_PREFIX = "engine "


def measure(inputs: StepInputs) -> Metrics:
    """Latency, throughput, load time, memory and size of all engines."""
    work = inputs.work
    wanted = work.recipe.measure
    config = MeasurePlan(
        baseline=work.baseline,
        shipped=work.candidate,
        may_ship=work.rivals,
        batch_sizes=work.profile.measure.batch_sizes,
        latency=LatencyConfig(duration_s=wanted.duration_s, warmup_s=wanted.warmup_s, seed=work.recipe.seed),
        processes=wanted.processes,
    )
    result = measure_engines(_engines(inputs), config, work.host, inputs.folder, inputs.progress)
    return result.metrics


def attack(inputs: StepInputs) -> Metrics:
    """Evaluation sets through all engines."""
    folder = inputs.path("sets")
    index = folder / INDEX_FILE
    sets = read_sets(read_json(index, BundleError), lambda name: (folder / name).read_bytes(), str(index))
    scorer = task_of(inputs.work.recipe.task).scores
    result = attack_engines(
        _engines(inputs), inputs.work.baseline, sets, inputs.work.host, inputs.folder, inputs.progress, scorer
    )
    return result.metrics


def _engines(inputs: StepInputs) -> dict[str, Path]:
    return {
        node.removeprefix(_ENGINE_PREFIX): stored.folder
        for node, stored in inputs.results.items()
        if node.startswith(_ENGINE_PREFIX)
    }
