"""Step: the recipe's ONNX file, taken in as the chain's first graph."""

from __future__ import annotations

from pathlib import Path

from devices.stage import Metrics
from exporters.graph_size import graph_macs, graph_parameters
from exporters.onnx_import import import_onnx
from pipeline.engine_plan import least_opset
from pipeline.steps.convert import ONNX_FILE
from pipeline.work import StepInputs


def take_in(inputs: StepInputs) -> Metrics:
    """The file with a free batch, an opset that the device takes and its weights as constants; parity proved."""
    work = inputs.work
    assert work.recipe.model.onnx is not None
    target = inputs.folder / ONNX_FILE
    _, height, width = work.dataset.input_shape
    parity, opsets = import_onnx(
        Path(work.recipe.model.onnx),
        target,
        work.opset,
        work.parity_images,
        image_size=(height, width),
        min_opset=least_opset(work.engines),
    )
    size = {"macs": graph_macs(target), "parameters": graph_parameters(target)}
    return {"parity": parity.as_dict(), "size_bytes": target.stat().st_size, **opsets, **size}
