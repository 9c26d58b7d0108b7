"""Step: options of an engine's session, tuned by measuring on this host."""

from __future__ import annotations

from devices.engines.select import ort_options
from devices.latency import LatencyConfig
from devices.stage import Metrics
from devices.tune import tune_session
from pipeline.steps.convert import ONNX_FILE
from pipeline.work import StepInputs


def tune(inputs: StepInputs) -> Metrics:
    """Each change of the options beside the usual ones, on the graph that the engine is built of."""
    work = inputs.work
    (stored,) = inputs.results.values()
    wanted = work.recipe.measure
    config = LatencyConfig(duration_s=wanted.duration_s, warmup_s=wanted.warmup_s, seed=work.recipe.seed)
    options = ort_options(work.profile)
    return tune_session(stored.folder / ONNX_FILE, options, config, work.host, inputs.folder, inputs.progress).metrics
