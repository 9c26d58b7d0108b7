"""Step: options of an engine's session, tuned by measuring on the device."""

from __future__ import annotations

from devices.latency import LatencyConfig
from devices.stage import Metrics
from pipeline.place import place_of
from pipeline.steps.convert import ONNX_FILE
from pipeline.work import StepInputs


def tune(inputs: StepInputs) -> Metrics:
    """Each change of the options beside the usual ones, on the graph that the engine is built of."""
    work = inputs.work
    (stored,) = inputs.results.values()
    wanted = work.recipe.measure
    config = LatencyConfig(duration_s=wanted.duration_s, warmup_s=wanted.warmup_s, seed=work.recipe.seed)
    return place_of(work).tune(stored.folder / ONNX_FILE, config, inputs.folder, inputs.progress)
