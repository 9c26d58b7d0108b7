"""Steps on TensorRT engines alone: the same graph built several times, and the start of the engine that ships."""

from __future__ import annotations

import tempfile
from pathlib import Path

from devices.agent_build import BuildJob
from devices.agent_config import decode
from devices.engines.select import tensorrt_options
from devices.engines.tensorrt_rebuilds import compare_rebuilds, rebuild_lines
from devices.engines.tensorrt_start import measure_starts, start_lines
from devices.files import write_json
from devices.latency import LatencyConfig
from devices.stage import Metrics
from pipeline.graph_nodes import ENGINE_PREFIX
from pipeline.results import shipped_of
from pipeline.steps.convert import ONNX_FILE
from pipeline.work import StepInputs

REBUILDS_FILE, STARTS_FILE = "rebuilds.json", "starts.json"


def rebuild(inputs: StepInputs) -> Metrics:
    """Builds of the candidate's graph compared: digests and sizes, and where they run latency and answers."""
    work = inputs.work
    wanted = work.recipe.measure
    assert wanted.rebuilds is not None
    (stored,) = inputs.results.values()
    job = decode(BuildJob, inputs.options["build"], "build")
    options = tensorrt_options(work.profile, job.precision, job.batches, job.sparse, job.dla_core)
    latency = LatencyConfig(duration_s=wanted.duration_s, warmup_s=wanted.warmup_s, seed=work.recipe.seed)
    with tempfile.TemporaryDirectory(prefix="espalier-rebuilds-") as scratch:
        onnx_path = stored.folder / ONNX_FILE
        found = compare_rebuilds(onnx_path, Path(scratch), options, work.host, wanted.rebuilds, latency)
    write_json(inputs.folder / REBUILDS_FILE, found.as_dict())
    return {**found.as_dict(), "lines": rebuild_lines(found)}


def start(inputs: StepInputs) -> Metrics:
    """The engine that ships, started with kernels compiled anew and with kept ones."""
    found = measure_starts(inputs.path(f"{ENGINE_PREFIX}{shipped_of(inputs.results)}"))
    write_json(inputs.folder / STARTS_FILE, found.as_dict())
    return {**found.as_dict(), "lines": start_lines(found)}
