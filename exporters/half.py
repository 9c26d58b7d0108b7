"""FP16 and BF16 in the graph: weights and values in 16 bits, casts at the borders, fragile operators in FP32.

Inputs and outputs stay float32. TensorRT from 10 on and TensorRT-RTX are strongly typed: what the graph says is what
they compute. ONNX Runtime's own converter knows FP16 alone, clamps weights in silence and leaves nodes unsorted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnx
from numpy.typing import NDArray

from devices.engines.onnxruntime import open_reference
from devices.errors import ModelError, RecipeError
from devices.files import write_atomic
from devices.scoring import same_classes
from exporters.half_check import (
    LARGEST,
    Overflow,
    find_overflows,
    flushed_share,
    rounded_graph,
    run_unoptimized,
)
from exporters.half_graph import HALF_TYPES, float_values, half_graph, half_nodes, takes_half
from exporters.half_scales import with_held_scales
from exporters.onnx_read import opset_of
from exporters.parity import Agreement, Parity, ParityLimits, compare, require
from exporters.portable import portable_bytes
from exporters.quantize_layers import PRODUCTS, with_named_nodes
from exporters.quantize_options import require_images
from exporters.quiet import first_line

HalfType = Literal["fp16", "bf16"]
FRAGILE = (
    "BatchNormalization",
    "CumSum",
    "Exp",
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "Log",
    "LogSoftmax",
    "LpNormalization",
    "Pow",
    "RMSNormalization",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSumExp",
    "ReduceMean",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Softmax",
    "Sqrt",
)
"""Operators that add many values up, or whose result leaves the range of FP16 for values within it."""


@dataclass(frozen=True, kw_only=True)
class HalfOptions:
    """What is computed in 16 bits. Raises `RecipeError` for a value out of range."""

    precision: HalfType = "fp16"
    keep_operators: tuple[str, ...] = FRAGILE
    """Operators that stay in FP32."""
    keep: tuple[str, ...] = ()
    """Nodes that stay in FP32, by name."""
    on_overflow: Literal["keep", "refuse"] = "keep"
    """What becomes of a node with a value that does not fit: it stays in FP32, or the conversion is refused."""
    headroom: float = 2.0
    """So many times the largest value seen must fit: other images have larger ones."""

    def __post_init__(self) -> None:
        if self.precision not in get_args(HalfType):
            raise RecipeError("half.precision", f"is {self.precision!r}", "Take fp16 or bf16")
        if self.on_overflow not in ("keep", "refuse"):
            raise RecipeError("half.on_overflow", f"is {self.on_overflow!r}", "Take keep or refuse")
        if not self.headroom >= 1:
            raise RecipeError("half.headroom", f"is {self.headroom:g}", "Set it to 1 at least")


DEFAULT_OPTIONS = HalfOptions()


@dataclass(frozen=True, kw_only=True)
class HalfConversion:
    """What came of a conversion."""

    parity: Parity
    """Of the graph with every value rounded to 16 bits where the graph says so, sums within an operator in FP32."""
    in_half: int
    """Nodes that compute in 16 bits."""
    kept: tuple[str, ...]
    """Convolutions and products in FP32, by name."""
    overflows: tuple[Overflow, ...]
    """What would not fit, and so stayed in FP32."""
    flushed_share: float
    """Of the weights that are not zero, the share that becomes zero."""


def convert_half(
    source: Path,
    target: Path,
    samples_NCHW: NDArray[np.float32],
    options: HalfOptions,
    limits: ParityLimits,
    threads: int,
    agreement: Agreement | None = same_classes,
    stand_in: Path | None = None,
) -> HalfConversion:
    """Write the graph in FP16 or BF16 and prove parity with `source`, which is in FP32 or quantized (QDQ).

    To `stand_in` goes a graph of the same answers that a CPU computes, when it is run unoptimized.

    What overflows is found by running the FP32 graph on the samples. Raises `DataError` for unfit samples,
    `ModelError` when the graph cannot be converted, or overflows and that is to be refused; `ParityError` when the
    answers differ by more than the limits.
    """
    where, kind = str(source), HALF_TYPES[options.precision]
    original = onnx.load(source)
    require_images(samples_NCHW, original, "samples")
    named = with_named_nodes(original)
    model = with_held_scales(named) if options.precision == "fp16" else named
    _require_convertible(model, options, where)
    floats = float_values(model)
    chosen = half_nodes(model, floats, kind, options.keep_operators, options.keep)
    overflows = find_overflows(model, floats, chosen, samples_NCHW, LARGEST[kind] / options.headroom, threads)
    if overflows and options.on_overflow == "refuse":
        raise ModelError(where, _told(overflows, options), "Keep these nodes in FP32, or take bf16 where it is there")
    chosen -= {overflow.node for overflow in overflows}
    kept = _products_in_fp32(model, chosen, where)
    converted, halves = half_graph(model, floats, kind, chosen)
    content = portable_bytes(converted)
    _require_types(content, where)
    expected = open_reference(source, threads)(samples_NCHW)
    rounded = rounded_graph(converted, halves, kind)
    answered = run_unoptimized(rounded, samples_NCHW, threads)
    border = f"FP32 to {options.precision.upper()}"
    parity = compare(border, expected, answered, agreement)
    require(parity, limits, "Keep more operators in FP32, or set quantize.precision = 'fp32'")
    write_atomic(target, content)
    if stand_in is not None:
        write_atomic(stand_in, portable_bytes(rounded))
    return HalfConversion(
        parity=parity,
        in_half=len(chosen),
        kept=kept,
        overflows=overflows,
        flushed_share=flushed_share(model, kind),
    )


def _require_convertible(model: onnx.ModelProto, options: HalfOptions, where: str) -> None:
    for node in model.graph.node:
        if any(entry.HasField("g") or entry.graphs for entry in node.attribute):
            what = f"node '{node.name}' ({node.op_type}) holds a graph of its own, and this is not converted"
            raise ModelError(where, what, "Export the network without branches and loops, or leave it in FP32")
    unknown = sorted(set(options.keep) - {node.name for node in model.graph.node})
    if unknown:
        raise ModelError(where, f"has no node '{unknown[0]}' to keep in FP32", "Give names of its nodes")
    spared = [*options.keep_operators, *options.keep]
    for node in model.graph.node:
        wanted = node.op_type in PRODUCTS and not {node.op_type, node.name}.intersection(spared)
        if wanted and not takes_half(node, HALF_TYPES[options.precision], opset_of(model)):
            what = (
                f"is of opset {opset_of(model)}, in which {node.op_type} ('{node.name}') takes no {options.precision}"
            )
            raise ModelError(where, what, "Export it with opset 22, if the device takes it, or take fp16")


def _products_in_fp32(model: onnx.ModelProto, chosen: frozenset[str], where: str) -> tuple[str, ...]:
    """Products that stay in FP32. Raises `ModelError` when all do."""
    products = [node.name for node in model.graph.node if node.op_type in PRODUCTS]
    kept = tuple(name for name in products if name not in chosen)
    if len(kept) == len(products):
        what = "no convolution or matrix product is left to compute in 16 bits"
        raise ModelError(where, what, "Keep fewer in FP32, or leave the network in FP32")
    return kept


def _told(overflows: tuple[Overflow, ...], options: HalfOptions) -> str:
    first, rest = overflows[0], len(overflows) - 1
    more = f", and {rest} more nodes" if rest else ""
    limit = f"{first.limit:.4g} is the limit with headroom {options.headroom:g}"
    return (
        f"node '{first.node}' ({first.operation}) does not fit into {options.precision}: '{first.value}' reaches "
        f"{first.largest:.4g} on the samples, and {limit}{more}"
    )


def _require_types(content: bytes, where: str) -> None:
    """Raise `ModelError` unless every operator takes the types that it is given."""
    try:
        onnx.checker.check_model(content, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as cause:
        raise ModelError(where, f"the graph in 16 bits came out broken: {first_line(cause)}", "Report it") from cause
