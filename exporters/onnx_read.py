"""A user's ONNX file, read with care: nothing is taken on trust but its size, its form and its own folder."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]

from devices.errors import ModelError
from exporters.quiet import first_line

OLDEST_OPSET, NEWEST_OPSET = 7, 24
# What a protocol buffer can hold.
_MAX_BYTES = (1 << 31) - 1


@dataclass(frozen=True)
class OnnxFile:
    """A file that was read."""

    model: onnx.ModelProto
    """Weights are constants, no function is left."""
    image_shape: tuple[int, int, int]
    """Channels, height, width."""
    batch: int | None
    """None where the file leaves it free."""


def read_onnx(path: Path, image_size: Sequence[int] | None) -> OnnxFile:
    """Read an ONNX file (opset 7 to 24) of one float input (N, C, H, W); `image_size` where it leaves H and W open.

    A weight that is a graph input and has a value is that value. External data must lie in the file's folder. Raises
    `ModelError`.
    """
    model = _without_weight_inputs(_load(path))
    _require_opset(model, path)
    dims = _one_image(model, path).type.tensor_type.shape.dim
    batch = dims[0].dim_value if dims[0].HasField("dim_value") else None
    return OnnxFile(model, _image_shape(dims, image_size, path), batch)


def external_files(path: Path) -> tuple[Path, ...]:
    """Files beside an ONNX file that hold its weights. Of a file that is no ONNX none; reading it will say so."""
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except (DecodeError, OSError):
        return ()
    places = {
        entry.value for tensor in _all_tensors(model) for entry in tensor.external_data if entry.key == "location"
    }
    return tuple(sorted(path.parent / place for place in places if os.path.isfile(path.parent / place)))


def opset_of(model: onnx.ModelProto) -> int:
    """Version of ONNX's own operators; 0 when it imports none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def _load(path: Path) -> onnx.ModelProto:
    try:
        size_bytes = path.stat().st_size
        if not 0 < size_bytes <= _MAX_BYTES:
            raise ModelError(str(path), f"has {size_bytes} bytes, and an ONNX file has 1 to {_MAX_BYTES}", "Check it")
        model = onnx.load_model_from_string(path.read_bytes())
        _load_external(model, path)
    except OSError as cause:
        raise ModelError(str(path), f"cannot be read ({cause.strerror})", "Check the path") from cause
    except DecodeError as cause:
        raise ModelError(
            str(path), "is not an ONNX file", "Give a file that torch.onnx or another tool wrote"
        ) from cause
    try:
        onnx.checker.check_model(model)
        return onnx.inliner.inline_local_functions(model) if model.functions else model
    except (onnx.checker.ValidationError, RuntimeError) as cause:
        raise ModelError(str(path), f"ONNX's checker refuses it: {first_line(cause)}", "Export it again") from cause


def _load_external(model: onnx.ModelProto, path: Path) -> None:
    """Load weights kept in other files, from the file's own folder alone. Raises `ModelError`."""
    folder = path.parent.resolve()
    for tensor in _all_tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        inside = location and not PurePosixPath(location).is_absolute() and ".." not in PurePosixPath(location).parts
        # Resolved too, because a link may lead out of the folder.
        if not inside or not (folder / location).resolve().is_relative_to(folder):
            what = f"keeps '{tensor.name}' in {location!r:.80}, outside its own folder"
            raise ModelError(str(path), what, "Save it again with its weights inside or beside it")
        if not (folder / location).is_file():
            raise ModelError(str(path), f"keeps '{tensor.name}' in {location}, which is not there", "Put it beside it")
    try:
        onnx.load_external_data_for_model(model, str(folder))
    except (ValueError, RuntimeError, onnx.checker.ValidationError) as cause:
        raise ModelError(
            str(path), f"its external data does not fit it: {first_line(cause)}", "Save it again"
        ) from cause


def _all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from _tensors(model.graph)
    for function in model.functions:
        yield from _tensors(onnx.GraphProto(node=function.node))


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor with a value, in graphs inside of it too."""
    yield from graph.initializer
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for inner in (attribute.g, *attribute.graphs):
            yield from _tensors(inner)


def _without_weight_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    # Before format 4 every weight had to be an input.
    model.ir_version = max(model.ir_version, 4)
    return model


def _require_opset(model: onnx.ModelProto, path: Path) -> None:
    opset = opset_of(model)
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        what = f"is of opset {opset}, and {OLDEST_OPSET} to {NEWEST_OPSET} are taken"
        raise ModelError(str(path), what, "Export it again, or convert it with onnx.version_converter")


def _one_image(model: onnx.ModelProto, path: Path) -> onnx.ValueInfoProto:
    inputs: list[onnx.ValueInfoProto] = list(model.graph.input)
    if len(inputs) == 1:
        tensor = inputs[0].type.tensor_type
        if tensor.elem_type == onnx.TensorProto.FLOAT and len(tensor.shape.dim) == 4:
            return inputs[0]
    found = ", ".join(f"{value.name} of {len(value.type.tensor_type.shape.dim)} dimensions" for value in inputs)
    what = f"has the inputs {found or 'none'}, and one of 32-bit floats (N, C, H, W) is needed"
    raise ModelError(str(path), what, "Export it for one image input")


def _image_shape(dims: Sequence[object], image_size: Sequence[int] | None, path: Path) -> tuple[int, int, int]:
    channels, height, width = (int(getattr(dim, "dim_value", 0)) for dim in dims[1:])
    if image_size is not None:
        if len(image_size) != 2 or any(type(side) is not int or side < 1 for side in image_size):
            raise ModelError("image_size", f"{image_size!r:.40} is not two positive whole numbers", "Write [H, W]")
        if any(own not in (0, asked) for own, asked in zip((height, width), image_size, strict=True)):
            raise ModelError("image_size", f"is {list(image_size)}, and {path} takes {[height, width]}", "Leave it out")
        height, width = image_size
    if not math.prod((channels, height, width)):
        what = f"leaves the image's shape open: {channels or '?'} channels, {height or '?'} by {width or '?'} pixels"
        raise ModelError(
            str(path), what, "Give image_size = [H, W] (in a recipe under [model]); the channels must be in the file"
        )
    return channels, height, width
