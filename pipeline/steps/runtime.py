"""Steps on TensorRT engines alone: the same graph built several times, and the start of the engine that ships."""

from __future__ import annotations

from devices.agent_build import BuildJob
from devices.agent_config import decode
from devices.agent_runtime import RebuildJob
from devices.latency import LatencyConfig
from devices.stage import Metrics
from pipeline.graph_nodes import ENGINE_PREFIX
from pipeline.place import place_of
from pipeline.results import shipped_of
from pipeline.steps.convert import ONNX_FILE
from pipeline.work import StepInputs


def rebuild(inputs: StepInputs) -> Metrics:
    """Builds of the candidate's graph compared: digests and sizes, and where they run latency and answers."""
    work = inputs.work
    wanted = work.recipe.measure
    assert wanted.rebuilds is not None
    (stored,) = inputs.results.values()
    job = RebuildJob(
        build=decode(BuildJob, inputs.options["build"], "build"),
        count=wanted.rebuilds,
        latency=LatencyConfig(duration_s=wanted.duration_s, warmup_s=wanted.warmup_s, seed=work.recipe.seed),
    )
    return place_of(work).rebuild(stored.folder / ONNX_FILE, job, inputs.folder, inputs.progress)


def start(inputs: StepInputs) -> Metrics:
    """The engine that ships, started with kernels compiled anew and with kept ones."""
    engine = inputs.path(f"{ENGINE_PREFIX}{shipped_of(inputs.results)}")
    return place_of(inputs.work).start(engine, inputs.folder, inputs.progress)
