"""An ONNX file as TensorRT's parser reads it: what it refuses, what goes in and out, what each layer computes in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from devices.engines.base import EngineInfo, Port
from devices.engines.tensorrt_log import Message, cleaned
from devices.engines.tensorrt_options import Dialect, TensorRtOptions, provider
from devices.errors import DeviceError, ModelError
from devices.profile import Precision

_PRECISIONS: dict[str, Precision] = {
    "FLOAT": "fp32",
    "HALF": "fp16",
    "BF16": "bf16",
    "INT8": "int8",
    "FP8": "fp8",
}
_PRODUCTS = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "FULLY_CONNECTED", "EINSUM")
_ONLY_MOVE = ("SHUFFLE", "SQUEEZE", "UNSQUEEZE", "IDENTITY")
"""Layers between DequantizeLinear and a product that change no value."""
_NODE = re.compile(r"While parsing node number (\d+) \[([\w.:]+)")
_NODE_NAME = re.compile(r'^(?:Node )?name: "?(.*?)"?$', re.MULTILINE)
_ZERO_POINT = re.compile(r"zero point|shiftIsAllZeros", re.IGNORECASE)
_INT32 = re.compile(r"type Int32 but must have type|INT32.*(scale|quantiz)", re.IGNORECASE)
_UNKNOWN = re.compile(r"Plugin not found|No importer registered|checkFallbackPlugin")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A node that the parser refuses."""

    layer: str
    operator: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"operator {self.operator} of layer '{self.layer}': {self.what}"


@dataclass(frozen=True, kw_only=True)
class Ports:
    """What goes into a network, and what comes out."""

    input_name: str
    input_shape: tuple[int, int, int]
    fixed_batch: int | None
    """None: the batch is free."""
    outputs: tuple[Port, ...]


@dataclass(frozen=True)
class Product:
    """A convolution or matrix product, and what it computes in."""

    layer: str
    precision: Precision
    around: Precision
    """What its result is in; of a quantized one, the type that it is scaled back to."""

    @property
    def types(self) -> tuple[Precision, Precision]:
        """Both: the device needs them."""
        return self.precision, self.around


def engine_info(ports: Ports, options: TensorRtOptions, version: str, machine: str, onnx_sha256: str) -> EngineInfo:
    """What an engine needs that this version built on a machine such as 'aarch64-linux'."""
    name, shape = ports.outputs[0]
    return EngineInfo(
        runtime=options.module,
        runtime_version=version,
        provider=provider(options),
        host_class=machine,
        threads=1,
        input_name=ports.input_name,
        input_shape=ports.input_shape,
        output_name=name,
        classes=shape[0] if shape else 1,
        onnx_sha256=onnx_sha256,
        outputs=() if len(ports.outputs) == len(shape) == 1 else ports.outputs,
        settings=options.settings,
        compute_capability=options.compute_capability,
        batches=options.batches,
    )


def problems_of(parser: Any, log: Sequence[Message]) -> tuple[Problem, ...]:
    """What the parser refused, node by node, each once."""
    found: dict[tuple[str, str], Problem] = {}
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        layer, operator = _names(error, log)
        what, fix = _explained(error.desc())
        found.setdefault((layer, operator), Problem(layer=layer, operator=operator, what=what, fix=fix))
    return tuple(found.values())


def _names(error: Any, log: Sequence[Message]) -> tuple[str, str]:
    if hasattr(error, "node_operator"):
        operator, layer = error.node_operator(), error.node_name()
    else:
        # TensorRT 8 gives the node's number, and writes the rest to the log.
        operator, layer = _names_in_log(error.node(), log)
    return layer or f"number {error.node()}", operator or "(none)"


def _names_in_log(node: int, log: Sequence[Message]) -> tuple[str, str]:
    operator = ""
    for message in log:
        begun = _NODE.search(message.text)
        if begun:
            operator = begun.group(2) if int(begun.group(1)) == node else ""
        name = _NODE_NAME.search(message.text)
        if operator and name:
            return operator, name.group(1)
    return operator, ""


def _explained(text: str) -> tuple[str, str]:
    if _UNKNOWN.search(text):
        return "it is not known", "Build it of operators that TensorRT has"
    if _ZERO_POINT.search(text):
        fix = "Quantize with engine.int8_activations = 'signed' in the device's profile"
        return "TensorRT takes symmetric quantization only, with a zero point of 0", fix
    if _INT32.search(text):
        return "TensorRT takes no bias quantized to INT32", "Leave the biases as they are"
    said = cleaned(text.split("\n")[-1] if text.startswith("Invalid Node") else text)
    return said if said not in ("", "false") else "it is not supported", "Build it of operators that TensorRT has"


def require_parsed(parsed: bool, parser: Any, log: Sequence[Message], title: str, where: str) -> None:
    """Raise `ModelError` that names the operators and layers that the parser refuses."""
    if parsed:
        return
    problems = problems_of(parser, log)
    placed = [problem for problem in problems if problem.operator != "(none)"]
    if not placed:
        said = "; ".join(problem.what for problem in problems) or "it said nothing"
        raise ModelError(where, f"{title} cannot read it: {said}", "Check that it is a sound ONNX file")
    more = f" ({len(placed) - 1} more like it)" if len(placed) > 1 else ""
    raise ModelError(where, f"{title} refuses {placed[0]}{more}", placed[0].fix)


def ports_of(network: Any, where: str) -> Ports:
    """Input and outputs. Raises `ModelError` unless one float image goes in and float arrays come out."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    shapes = [tuple(tensor.shape) for tensor in (*inputs, *outputs)]
    if len(inputs) != 1 or len(shapes[0]) != 4 or not outputs or not all(shapes):
        what = f"has inputs {[tuple(tensor.shape) for tensor in inputs]} and {len(outputs)} outputs"
        raise ModelError(where, what, "It must have one float input (N, C, H, W) and float outputs (N, ...)")
    for tensor in (*inputs, *outputs):
        open_axes = [axis for axis, size in enumerate(tuple(tensor.shape)) if axis and size < 0]
        if open_axes:
            what = f"'{tensor.name}' has shape {tuple(tensor.shape)}: axis {open_axes[0]} has no range"
            raise ModelError(where, what, "Export it for one image size; the batch alone may be free")
        if tensor.dtype.name != "FLOAT":
            raise ModelError(where, f"'{tensor.name}' is of type {tensor.dtype.name}, not FLOAT", "Cast it inside")
    _, *image = shapes[0]
    return Ports(
        input_name=inputs[0].name,
        input_shape=(int(image[0]), int(image[1]), int(image[2])),
        fixed_batch=None if shapes[0][0] < 0 else int(shapes[0][0]),
        outputs=tuple((tensor.name, tuple(int(size) for size in tuple(tensor.shape)[1:])) for tensor in outputs),
    )


def products_of(network: Any) -> tuple[Product, ...]:
    """Every convolution and matrix product. What comes from DequantizeLinear on both sides computes quantized."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    made_by = {layer.get_output(k).name: layer for layer in layers for k in range(layer.num_outputs)}
    return tuple(
        Product(layer.name, _computes_in(layer, made_by), _precision(layer.get_output(0).dtype.name))
        for layer in layers
        # Products of whole numbers compute shapes.
        if _kind(layer) in _PRODUCTS and layer.get_output(0).dtype.name in _PRECISIONS
    )


def _kind(layer: Any) -> str:
    return str(layer.type.name)


def _computes_in(layer: Any, made_by: dict[str, Any]) -> Precision:
    operands = [layer.get_input(index) for index in range(min(layer.num_inputs, 2))]
    operands = [operand for operand in operands if operand is not None]
    quantized = []
    for operand in operands:
        maker = made_by.get(operand.name)
        while maker is not None and _kind(maker) in _ONLY_MOVE:
            maker = made_by.get(maker.get_input(0).name)
        if maker is not None and _kind(maker) == "DEQUANTIZE":
            quantized.append(maker.get_input(0).dtype.name)
    if len(operands) == 2 and len(quantized) == 2:
        return _precision(quantized[0])
    return _precision(operands[0].dtype.name)


def _precision(name: str) -> Precision:
    if name not in _PRECISIONS:
        raise ModelError("network", f"has a layer that computes in {name}", "Use FP32, FP16, BF16, INT8 or FP8")
    return _PRECISIONS[name]


def has_type(network: Any, name: str) -> bool:
    """Whether any layer gives a tensor of this type of the library's."""
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return any(layer.get_output(k).dtype.name == name for layer in layers for k in range(layer.num_outputs))


def require_precisions(products: Sequence[Product], options: TensorRtOptions, dialect: Dialect, where: str) -> None:
    """Refuse, before the build, what the device cannot compute, and a graph of another precision than said."""
    strange = [product for product in products if not set(product.types) <= set(options.allowed)]
    if strange:
        first, more = strange[0], f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        on = f"compute capability {options.compute_capability}" if options.compute_capability else "this device"
        missing = next(kind for kind in first.types if kind not in options.allowed).upper()
        what = f"{dialect.title} computes no {missing} on {on}, as layer '{first.layer}'{more} would need"
        raise DeviceError(where, what, f"Convert the graph to {' or '.join(options.allowed)}")
    if products and all(product.precision != options.precision for product in products):
        found = ", ".join(sorted({product.precision for product in products})).upper()
        what = f"was to be {options.precision.upper()}, and all its convolutions and products compute in {found}"
        raise ModelError(where, what, "Convert the graph first: the precision of an engine is that of its graph")


def require_batches(ports: Ports, options: TensorRtOptions, where: str) -> None:
    """Raise `ModelError` when a graph of a fixed batch is to take another."""
    if ports.fixed_batch is not None and options.batches != (ports.fixed_batch,) * 3:
        asked = f"{options.batches[0]} to {options.batches[2]}"
        what = f"takes batches of {ports.fixed_batch} alone, and {asked} are asked for"
        raise ModelError(where, what, "Export it with a dynamic batch")
