"""A user's ONNX file as the start: read with care, its batch made free, its answers proved unchanged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import version_converter

from devices.engines.onnxruntime import load_module
from devices.errors import ModelError
from devices.files import write_atomic
from exporters.free_batch import BATCH, SHAPE, batch_free_forms, computed_constants, with_written_shapes
from exporters.onnx_export import INPUT_NAME
from exporters.onnx_read import opset_of, read_onnx
from exporters.parity import Parity, ParityLimits, compare, require
from exporters.portable import portable_bytes
from exporters.quiet import first_line, quiet

FloatArray = NDArray[np.float32]
Answer = Callable[[FloatArray], list[NDArray[np.generic]]]
"""Images (N, C, H, W) to the outputs, in the file's order."""

# QuantizeLinear takes one scale a channel from here on.
_QDQ_OPSET = 13
_PROVED_BATCH = 3
_LOG_FATAL_ONLY = 4
SAME_ANSWERS = ParityLimits(min_sqnr_db=60, min_agreement=0)


@dataclass(frozen=True)
class OnnxSource:
    """A file that was read, and what it answers."""

    model: onnx.ModelProto
    """Weights are constants, no function is left, the batch is free."""
    image_shape: tuple[int, int, int]
    """Channels, height, width."""
    answer: Answer
    """The file as it is, in ONNX Runtime without optimization; image by image where its batch is one."""


def read_source(path: Path, image_size: Sequence[int] | None = None) -> OnnxSource:
    """Read a file as `read_onnx` does; a batch of one is made free, which is proved on random images.

    Raises `ModelError`.
    """
    file = read_onnx(path, image_size)
    original = run_onnx(file.model, str(path))
    if file.batch is None:
        return OnnxSource(file.model, file.image_shape, original)

    def one_by_one(images_NCHW: FloatArray) -> list[NDArray[np.generic]]:
        answers = [original(images_NCHW[i : i + 1]) for i in range(len(images_NCHW))]
        return [np.concatenate(parts) for parts in zip(*answers, strict=True)]

    if file.batch == 1:
        images = random_images(_PROVED_BATCH, file.image_shape)
        computed = probe(file.model, images[:1], (), computed_constants(file.model.graph), str(path))
        # A form that answers otherwise, or not at all, is simply not it.
        for form in batch_free_forms(file.model, computed):
            if _serves(form, images, one_by_one):
                return OnnxSource(form, file.image_shape, one_by_one)
    what = f"has a fixed batch of {file.batch}, and no form of it with a free batch gives the same answers"
    raise ModelError(str(path), what, "Export it with a dynamic batch: dynamic_shapes or dynamic_axes of torch.onnx")


def import_onnx(
    path: Path,
    target: Path,
    max_opset: int,
    samples_NCHW: FloatArray,
    limits: ParityLimits = SAME_ANSWERS,
    image_size: Sequence[int] | None = None,
    min_opset: int = 0,
) -> tuple[Parity, dict[str, int]]:
    """Write the file as the chain takes it: input `image` with a free batch, opset 13 to `max_opset`, no path in it.

    `min_opset` is what its engines need, where that is more than 13.
    Outputs keep their names and order. Returns the worst parity of any output with the file as it was, and the opset
    before and after. Raises `ModelError` as `read_source` does and when the opset cannot be converted, `ParityError`
    when an answer differs.
    """
    source = read_source(path, image_size)
    graph = source.model.graph
    reshaped = [node.output[0] for node in graph.node if node.op_type == "Reshape"]
    low, high = (
        probe(source.model, random_images(batch, source.image_shape), reshaped, computed_constants(graph), str(path))
        for batch in (_PROVED_BATCH - 1, _PROVED_BATCH)
    )
    model = with_written_shapes(source.model, low, high)
    before = opset_of(model)
    opset = min(max(before, _QDQ_OPSET, min_opset), max_opset)
    if opset != before:
        model = _with_opset(model, opset, str(path))
    _write_shapes(model, source.image_shape, str(path))
    _rename(model, model.graph.input[0].name, INPUT_NAME)
    content = portable_bytes(model)
    converted = run_onnx(onnx.load_from_string(content), str(path))
    expected = source.answer(samples_NCHW)
    parity = prove_same("ONNX as given to imported", expected, converted(samples_NCHW), limits)
    write_atomic(target, content)
    return parity, {"opset_before": before, "opset": opset}


def _with_opset(model: onnx.ModelProto, opset: int, where: str) -> onnx.ModelProto:
    before = opset_of(model)
    try:
        with quiet():
            return version_converter.convert_version(model, opset)
    # The converter's C++ raises whatever its adapters do.
    except Exception as cause:  # noqa: BLE001
        reason = first_line(cause)
    # Going down it lacks adapters for operators that have only taken more types since. Under the lower number the
    # checker sees what is really new, and parity what means something else.
    if opset < before:
        lower = onnx.ModelProto()
        lower.CopyFrom(model)
        for entry in lower.opset_import:
            entry.version = opset if entry.domain in ("", "ai.onnx") else entry.version
        # Written out by exporters though it is what older opsets always do.
        for node in lower.graph.node:
            plain = [item for item in node.attribute if (item.name, item.i) != ("allowzero", 0)]
            del node.attribute[:]
            node.attribute.extend(plain)
        try:
            onnx.checker.check_model(lower)
            return lower
        except onnx.checker.ValidationError as cause:
            reason = first_line(cause)
    what = f"cannot be converted from opset {before} to {opset}: {reason}"
    asked_for = (
        ", or take quantize.rest = 'fp32' or another quantize.precision" if opset > max(before, _QDQ_OPSET) else ""
    )
    raise ModelError(where, what, f"Export it again with opset {opset}{asked_for}")


def prove_same(
    border: str, expected: Sequence[NDArray[np.generic]], answered: Sequence[NDArray[np.generic]], limits: ParityLimits
) -> Parity:
    """Compare all outputs; the worst decides. Raises `ParityError`."""
    parity = compare(border, _floats(expected), _floats(answered), agreement=None)
    return require(parity, limits, "Report it with the file")


def _floats(outputs: Sequence[NDArray[np.generic]]) -> tuple[FloatArray, ...]:
    return tuple(np.atleast_1d(np.asarray(output, dtype=np.float32)) for output in outputs)


def run_onnx(model: onnx.ModelProto, where: str) -> Answer:
    """The graph in ONNX Runtime as written, on one thread. Raises `ModelError` when it is refused or fails."""
    ort = load_module()
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_FATAL_ONLY
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    # ONNX Runtime's exceptions share no public base below Exception.
    except Exception as cause:
        what = f"ONNX Runtime refuses it: {first_line(cause)}"
        raise ModelError(
            where, what, "Check that it is a sound ONNX file of operators that this version has"
        ) from cause
    name = session.get_inputs()[0].name

    def run(images_NCHW: FloatArray) -> list[NDArray[np.generic]]:
        try:
            return [np.asarray(output) for output in session.run(None, {name: images_NCHW})]
        # As above: no public base.
        except Exception as cause:
            what = f"does not run on images of shape {images_NCHW.shape}: {first_line(cause)}"
            raise ModelError(where, what, "Match it to the data, and export it with a dynamic batch") from cause

    return run


def random_images(count: int, shape: tuple[int, int, int], seed: int = 0) -> FloatArray:
    """(count, C, H, W), 0 to 1."""
    return np.random.default_rng(seed).random((count, *shape), dtype=np.float32)


def probe(
    model: onnx.ModelProto, images_NCHW: FloatArray, shapes: Sequence[str], values: Sequence[str], where: str
) -> dict[str, NDArray[np.generic]]:
    """Values inside of a graph for these images, and shapes of others by their name and `SHAPE`.

    Raises `ModelError`.
    """
    names = [name + SHAPE for name in shapes] + list(values)
    if not names:
        return {}
    inside = onnx.ModelProto()
    inside.CopyFrom(model)
    graph = inside.graph
    graph.node.extend(onnx.helper.make_node("Shape", [name], [name + SHAPE]) for name in shapes)
    del graph.output[:]
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return dict(zip(names, run_onnx(inside, where)(images_NCHW), strict=True))


def _serves(form: onnx.ModelProto, images: FloatArray, expected: Answer) -> bool:
    reference = expected(images)
    try:
        answered = run_onnx(form, "free batch")(images)
    except ModelError:
        return False
    if [side.shape for side in reference] != [side.shape for side in answered]:
        return False
    parity = compare("free batch", _floats(reference), _floats(answered), agreement=None)
    return parity.sqnr_db >= SAME_ANSWERS.min_sqnr_db


def _write_shapes(model: onnx.ModelProto, shape: tuple[int, int, int], where: str) -> None:
    """Shapes of input and outputs as they are, for two batches: builders and boards go by them."""
    run = run_onnx(model, where)
    low, high = (run(random_images(batch, shape)) for batch in (_PROVED_BATCH - 1, _PROVED_BATCH))
    ports = [*model.graph.output, model.graph.input[0]]
    seen = [(one.shape, other.shape) for one, other in zip(low, high, strict=True)]
    seen.append(((_PROVED_BATCH - 1, *shape), (_PROVED_BATCH, *shape)))
    for value, (one, other) in zip(ports, seen, strict=True):
        tensor = value.type.tensor_type
        tensor.ClearField("shape")
        tensor.shape.SetInParent()
        for before, after in zip(one, other, strict=True):
            dim = tensor.shape.dim.add()
            if before == after:
                dim.dim_value = before
            elif (before, after) == (_PROVED_BATCH - 1, _PROVED_BATCH):
                dim.dim_param = BATCH


def _rename(model: onnx.ModelProto, old: str, new: str) -> None:
    """Give a value another name; one that has it already steps aside."""
    if old == new:
        return
    graph = model.graph
    names = {name for node in graph.node for name in (*node.input, *node.output)}
    aside = new
    while aside in names or aside == old:
        aside += "_"
    table = {old: new, new: aside}
    for node in graph.node:
        for side in (node.input, node.output):
            for index, name in enumerate(side):
                side[index] = table.get(name, name)
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = table.get(value.name, value.name)
