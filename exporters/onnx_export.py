"""A torch network as ONNX: one input `image` (batch, C, H, W), one output `logits` (batch, classes)."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from devices.engines.onnxruntime import open_reference
from devices.errors import ModelError
from devices.files import write_atomic
from exporters.parity import Parity, ParityLimits, compare, require

if TYPE_CHECKING:
    import onnx
    import torch

INPUT_NAME = "image"
OUTPUT_NAME = "logits"
# Asked for less, the newer exporter warns and writes opset 18.
_OLDEST_DYNAMO_OPSET = 18
_ODD_BATCH = 3


def export_onnx(
    network: torch.nn.Module,
    samples_NCHW: NDArray[np.float32],
    opset: int,
    path: Path,
    limits: ParityLimits,
    threads: int,
) -> Parity:
    """Write the network as ONNX with a free batch, and prove that it answers as the network does.

    The file carries no path, source line or time of this host, so equal networks give equal bytes. Raises
    `ModelError` when the network cannot be traced, or only with a fixed batch or another opset; `ParityError` when the
    answers differ.
    """
    import onnx
    import torch

    reference = torch.from_numpy(samples_NCHW)
    model = _trace(network, reference[:2], opset)
    got = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if got != opset:
        raise ModelError("export", f"asked for ONNX opset {opset}, the exporter gave {got}", "Set export.opset to that")
    _strip_host(model)
    if not model.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise ModelError(
            "export", "the exported network has a fixed batch size", "Write its forward() without the batch size"
        )
    onnx.checker.check_model(model)
    write_atomic(path, model.SerializeToString(deterministic=True))
    with torch.no_grad():
        expected = network(reference).numpy()
    run = open_reference(path, threads)
    # An odd batch besides the whole: a batch size that was traced in would show here.
    answered = np.concatenate([run(samples_NCHW[:_ODD_BATCH]), run(samples_NCHW[_ODD_BATCH:])])
    return require(compare("torch to ONNX", expected, answered), limits, "The exporter changed the network's answers")


def _trace(network: torch.nn.Module, images: torch.Tensor, opset: int) -> onnx.ModelProto:
    import torch

    arguments: dict[str, Any] = {"input_names": [INPUT_NAME], "output_names": [OUTPUT_NAME], "opset_version": opset}
    try:
        with _quiet(), torch.no_grad():
            if opset >= _OLDEST_DYNAMO_OPSET:
                batch = torch.export.Dim("batch", min=1, max=1 << 16)
                program = torch.onnx.export(
                    network, (images,), dynamo=True, dynamic_shapes=({0: batch},), verbose=False, **arguments
                )
                assert program is not None
                return program.model_proto
            return _trace_old(network, images, arguments)
    # The exporter raises whatever the network's code and the converter raise.
    except Exception as cause:
        first_line = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        raise ModelError("export", f"the network cannot be exported to ONNX: {first_line}", "See --debug") from cause


def _trace_old(network: torch.nn.Module, images: torch.Tensor, arguments: dict[str, Any]) -> onnx.ModelProto:
    import onnx
    import torch

    buffer: Any = io.BytesIO()
    axes = {INPUT_NAME: {0: "batch"}, OUTPUT_NAME: {0: "batch"}}
    torch.onnx.export(network, (images,), buffer, dynamo=False, dynamic_axes=axes, **arguments)
    return onnx.load_from_string(buffer.getvalue())


def _strip_host(model: onnx.ModelProto) -> None:
    """Remove what names this host: source lines, module paths, documentation strings."""
    del model.metadata_props[:]
    model.ClearField("doc_string")
    graph = model.graph
    graph.ClearField("doc_string")
    del graph.metadata_props[:]
    for item in [*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        item.ClearField("doc_string")
        del item.metadata_props[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress, notices and deprecation warnings to itself; errors are raised."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
