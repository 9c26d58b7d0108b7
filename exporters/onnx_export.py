"""A torch network as ONNX: one input `image` (batch, C, H, W); output `logits`, or `output_0` and on of several."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from devices.engines.base import FloatArray, Outputs
from devices.engines.onnxruntime import open_reference
from devices.errors import ModelError
from devices.files import write_atomic
from devices.scoring import as_tuple, same_classes
from exporters.parity import Agreement, Parity, ParityLimits, compare, require
from exporters.portable import portable_bytes
from exporters.quiet import first_line, quiet

if TYPE_CHECKING:
    import onnx
    import torch

INPUT_NAME = "image"
OUTPUT_NAME = "logits"
# Asked for less, the newer exporter warns and writes opset 18.
_OLDEST_DYNAMO_OPSET = 18
_ODD_BATCH = 3
_FREE_BATCH = "Write its forward() for any batch size, one row of every output an image"
_WHERE = "It computes by what is in the image: replace the branch by torch.where"
_REWRITE = "See the whole error with --debug; plain tensor operations without branches on values can be exported"


def export_onnx(
    network: torch.nn.Module,
    samples_NCHW: NDArray[np.float32],
    opset: int,
    path: Path,
    limits: ParityLimits,
    threads: int,
    agreement: Agreement | None = same_classes,
) -> Parity:
    """Write the network as ONNX with a free batch, and prove that it answers as the network does.

    The file carries no path, source line or time of this host, so equal networks give equal bytes. Raises
    `ModelError` when the network cannot be traced, or only with a fixed batch or another opset; `ParityError` when the
    answers differ.
    """
    expected = _answers(network, samples_NCHW)
    model = _trace(network, samples_NCHW, opset, output_names(expected))
    got = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if got != opset:
        raise ModelError(
            "export.opset", f"is {opset}, and the exporter cannot write it: it gave {got}", f"Set it to {got}"
        )
    if len(model.graph.input) != 1 or not model.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise ModelError("export", "the exported network has a fixed batch size or no input", _FREE_BATCH)
    write_atomic(path, portable_bytes(model))
    run = open_reference(path, threads)
    # An odd batch besides the rest: a batch size that was traced in would show here.
    parts = [part for part in (samples_NCHW[:_ODD_BATCH], samples_NCHW[_ODD_BATCH:]) if len(part)]
    try:
        with quiet():
            answered = _joined([as_tuple(run(part)) for part in parts])
    # ONNX Runtime's exceptions share no public base below Exception.
    except Exception as cause:
        what = f"the exported network does not take every batch size: {first_line(cause)}"
        raise ModelError("export", what, _FREE_BATCH) from cause
    parity = compare("torch to ONNX", expected, answered, agreement)
    return require(parity, limits, "The exporter changed the network's answers")


def output_names(outputs: Outputs) -> list[str]:
    """Names of a network's outputs in the ONNX file."""
    return [f"output_{index}" for index in range(len(outputs))] if isinstance(outputs, tuple) else [OUTPUT_NAME]


def _joined(parts: list[tuple[FloatArray, ...]]) -> Outputs:
    """Outputs of several batches as those of one."""
    joined = tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return joined if len(joined) > 1 else joined[0]


def _answers(network: torch.nn.Module, samples_NCHW: NDArray[np.float32]) -> Outputs:
    """The network's outputs, each (N, ...). Raises `ModelError` when it does not give one row a sample."""
    import torch

    try:
        with torch.no_grad():
            # A copy, because a network may work on its input in place.
            answer = network(torch.from_numpy(samples_NCHW.copy()))
    # A user's network may raise anything.
    except Exception as cause:
        what = f"the network does not take a batch of {len(samples_NCHW)} images: {first_line(cause)}"
        raise ModelError("export", what, _FREE_BATCH) from cause
    outputs = answer if isinstance(answer, tuple) else (answer,)
    for output in outputs:
        if not isinstance(output, torch.Tensor) or output.ndim == 0 or len(output) != len(samples_NCHW):
            found = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise ModelError("export", f"the network returns {found} for {len(samples_NCHW)} images", _FREE_BATCH)
    arrays = tuple(np.asarray(output.numpy(), dtype=np.float32) for output in outputs)
    return arrays if isinstance(answer, tuple) else arrays[0]


def _trace(
    network: torch.nn.Module, samples_NCHW: NDArray[np.float32], opset: int, names: list[str]
) -> onnx.ModelProto:
    import torch

    # Two, because a batch of one is taken for a constant.
    images = torch.from_numpy(np.resize(samples_NCHW, (2, *samples_NCHW.shape[1:])))
    arguments: dict[str, Any] = {"input_names": [INPUT_NAME], "output_names": names, "opset_version": opset}
    try:
        with quiet(), torch.no_grad():
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
        said = first_line(cause)
        fix = _WHERE if "data-dependent" in said else _REWRITE
        raise ModelError("export", f"the network cannot be exported to ONNX: {said}", fix) from cause


def _trace_old(network: torch.nn.Module, images: torch.Tensor, arguments: dict[str, Any]) -> onnx.ModelProto:
    import onnx
    import torch

    buffer: Any = io.BytesIO()
    axes = {name: {0: "batch"} for name in (INPUT_NAME, *arguments["output_names"])}
    fused = torch.backends.mha.get_fastpath_enabled()
    # It knows the operations that transformer layers are made of, and not the one that they run as in inference.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        torch.onnx.export(network, (images,), buffer, dynamo=False, dynamic_axes=axes, **arguments)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return onnx.load_from_string(buffer.getvalue())
