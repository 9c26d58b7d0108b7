"""Step: the fake-quantized twin of what ships, held to its engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from devices.engine_files import read_engine
from devices.engines.base import Outputs
from devices.engines.onnxruntime import open_reference
from devices.engines.select import open_engine
from devices.errors import DeviceError
from devices.files import write_json
from devices.stage import Metrics
from pipeline.compute import deterministic
from pipeline.data import seeded_choice
from pipeline.steps.convert import ONNX_FILE
from pipeline.steps.limits import agreement_of
from pipeline.twin.build import prove_twin
from pipeline.twin.config import TwinConfig
from pipeline.work import StepInputs

TWIN_FILE = "twin.json"
_BATCH = 64


def twin(inputs: StepInputs) -> Metrics:
    """Build the twin of the quantized graph, and compare it with the engine on training images.

    An engine that runs elsewhere, on a board, is stood in for by the graph itself; its own border was proved there.
    """
    work = inputs.work
    graph, engine = (stored.folder for stored in inputs.results.values())
    config, train = TwinConfig(), work.dataset.train
    chosen = seeded_choice(len(train), config.samples, work.recipe.seed, work.recipe.quantize.calibration_samples)
    onnx_path = graph / ONNX_FILE
    answer, compared = _answers(inputs, engine, onnx_path)
    with deterministic(work.recipe.seed, work.recipe.threads):
        result = prove_twin(onnx_path, answer, train.batch(chosen), config, agreement_of(inputs))
    metrics = {**result.metrics, "compared_with": compared}
    write_json(inputs.folder / TWIN_FILE, metrics)
    return metrics


def _answers(inputs: StepInputs, engine: Path, onnx_path: Path) -> tuple[Callable[[NDArray[np.float32]], Outputs], str]:
    try:
        run, compared = open_engine(*read_engine(engine), inputs.work.host).run_all, "engine"
    except DeviceError:
        run, compared = open_reference(onnx_path, inputs.work.recipe.threads), "graph"  # type: ignore[assignment]

    def answer(images_NCHW: NDArray[np.float32]) -> Outputs:
        starts = range(0, len(images_NCHW), _BATCH)
        parts = [run(np.ascontiguousarray(images_NCHW[start : start + _BATCH])) for start in starts]
        rows = [part if isinstance(part, tuple) else (part,) for part in parts]
        return tuple(np.concatenate(column) for column in zip(*rows, strict=True))

    return answer, compared
