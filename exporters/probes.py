"""Probe networks: small ONNX files of equal layers by channels, timed on a device to find its steps and rates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from devices.calibrate_steps import LEAST_RISE, STEPS, Kind, Probe, rise_of, write_probes
from devices.errors import RecipeError
from devices.files import write_atomic
from devices.profile import Activations, Precision, Profile
from exporters.portable import portable_bytes

_OPSET = 17
_LEAST = 8
_DEEP = 9
_RANGE = 4.0


@dataclass(frozen=True, kw_only=True)
class ProbePlan:
    """Which probes are made. Raises `RecipeError` for a value out of range."""

    precision: Precision = "fp32"
    activations: Activations = "signed"
    """Of INT8."""
    widest: int = 128
    """Channels of the widest probe, a power of 2 from 32."""
    side: int = 14
    """Height and width of the images, and of what stands for tokens."""
    layers: int = 4
    kinds: tuple[Kind, ...] = ("convolution", "matmul")

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "fp16", "int8"):
            raise RecipeError("calibrate.precision", f"'{self.precision}' has no probes", "Choose fp32, fp16 or int8")
        if not 32 <= self.widest <= 1024 or self.widest & (self.widest - 1):
            raise RecipeError("calibrate.widest", f"{self.widest} is not 32, 64, ... or 1024", "Choose one of these")
        if not 2 <= self.side <= 256 or not 1 <= self.layers <= 8 or "convolution" not in self.kinds:
            what = f"side {self.side}, layers {self.layers}, kinds {', '.join(self.kinds)}"
            raise RecipeError("calibrate", what, "Side is 2 to 256, layers are 1 to 8, convolutions are needed")

    @property
    def channels(self) -> tuple[int, ...]:
        """Stairs of each width, both ends, below powers of 2 and what lies half-way between them."""
        powers = [1 << power for power in range(4, self.widest.bit_length())]
        tops = {12, *powers, *(3 * power // 2 for power in powers if 3 * power // 2 < self.widest)}
        ends = {(top - step // 2, top) for top in tops for step in STEPS if top % step == 0 and top > step // 2}
        found = {end for pair in ends if pair[0] >= _LEAST and rise_of(*pair) >= LEAST_RISE for end in pair}
        return tuple(sorted(found | {_LEAST, *powers}))


def probe_plan(profile: Profile, precision: Precision) -> ProbePlan:
    """Probes with enough work that a device of this kind is not all overhead."""
    activations = profile.engine.int8_activations or "signed"
    widest, side = {"cpu": (128, 14), "jetson": (256, 56), "gpu": (512, 56)}[profile.kind]
    return ProbePlan(precision=precision, activations=activations, widest=widest, side=side)


def make_probes(plan: ProbePlan, folder: Path) -> tuple[Probe, ...]:
    """Write the ONNX files and `probes.json` into `folder`. Raises `StorageError`."""
    probes = []
    for kind in plan.kinds:
        probes += [_write(plan, kind, channels, plan.layers, plan.side, folder) for channels in plan.channels]
    # Hardly any work, in two depths: what a call and a layer cost by themselves.
    narrowest = min(plan.channels)
    probes += [_write(plan, "convolution", narrowest, layers, 2, folder) for layers in (1, _DEEP)]
    write_probes(folder, probes)
    return tuple(probes)


def probe_graph(plan: ProbePlan, kind: Kind, channels: int, layers: int, side: int) -> onnx.ModelProto:
    """Image (N, channels, side, side) to (N, channels); for products (N, 1, side * side, channels) to (N, 1)."""
    builder = _Builder(plan)
    value = builder.enter("image")
    for index in range(layers):
        value = builder.layer(kind, channels, value, index)
    builder.leave(value)
    shape = [channels, side, side] if kind == "convolution" else [1, side * side, channels]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *shape])
    out = helper.make_tensor_value_info("means", TensorProto.FLOAT, ["batch", shape[0]])
    graph = helper.make_graph(builder.nodes, "probe", [image], [out], builder.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])


class _Builder:
    """Nodes and constants of one probe, in its precision."""

    def __init__(self, plan: ProbePlan) -> None:
        self._plan = plan
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(0)
        signed = plan.activations == "signed"
        self._zero: NDArray[np.generic] = np.array(0, np.int8) if signed else np.array(128, np.uint8)

    def enter(self, image: str) -> str:
        """The image in the probe's precision."""
        if self._plan.precision == "fp16":
            return self._node("Cast", [image], "half", {"to": TensorProto.FLOAT16})
        if self._plan.precision == "int8":
            return self._quantized(image, "image_q")
        return image

    def layer(self, kind: Kind, channels: int, value: str, index: int) -> str:
        """A convolution of 3 x 3, or a product, and a rectifier."""
        shape = (channels, channels, 3, 3) if kind == "convolution" else (channels, channels)
        # As large as keeps values from layer to layer, and from what is too small for a float.
        scale = np.sqrt(2 / (shape[1] * (9 if kind == "convolution" else 1)))
        weight = self._weight((self._rng.standard_normal(shape) * scale).astype(np.float32), f"weight{index}", kind)
        if kind == "convolution":
            value = self._node("Conv", [value, weight], f"product{index}", {"kernel_shape": [3, 3], "pads": [1] * 4})
        else:
            value = self._node("MatMul", [value, weight], f"product{index}")
        value = self._node("Relu", [value], f"rectified{index}")
        return self._quantized(value, f"value{index}") if self._plan.precision == "int8" else value

    def leave(self, value: str) -> None:
        """The mean of each channel or row, in FP32, so that little is copied out."""
        value = self._node("ReduceMean", [value], "mean", {"axes": [2, 3], "keepdims": 0})
        if self._plan.precision == "fp16":
            value = self._node("Cast", [value], "single", {"to": TensorProto.FLOAT})
        self.nodes.append(helper.make_node("Identity", [value], ["means"], name="means"))

    def _weight(self, values: NDArray[np.float32], name: str, kind: Kind) -> str:
        if self._plan.precision != "int8":
            half = self._plan.precision == "fp16"
            return self._constant(values.astype(np.float16) if half else values, name)
        axis = 0 if kind == "convolution" else 1
        largest = np.abs(values).max(axis=tuple(side for side in range(values.ndim) if side != axis), keepdims=True)
        # 7 bits, so that no instruction set saturates on what is only timed.
        scale = largest / 63
        inputs = [
            self._constant(np.round(values / scale).astype(np.int8), f"{name}_q"),
            self._constant(scale.reshape(-1).astype(np.float32), f"{name}_scale"),
            self._constant(np.zeros(scale.size, np.int8), f"{name}_zero"),
        ]
        return self._node("DequantizeLinear", inputs, name, {"axis": axis})

    def _quantized(self, value: str, name: str) -> str:
        scale = self._constant(np.array(_RANGE / 127, np.float32), f"{name}_scale")
        zero = self._constant(self._zero, f"{name}_zero")
        stored = self._node("QuantizeLinear", [value, scale, zero], f"{name}_stored")
        return self._node("DequantizeLinear", [stored, scale, zero], name)

    def _constant(self, values: NDArray[np.generic], name: str) -> str:
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def _node(self, operation: str, inputs: list[str], output: str, attributes: Mapping[str, Any] | None = None) -> str:
        self.nodes.append(helper.make_node(operation, inputs, [output], name=output, **(attributes or {})))
        return output


def _write(plan: ProbePlan, kind: Kind, channels: int, layers: int, side: int, folder: Path) -> Probe:
    name = f"{kind}-{channels}-{layers}x{side}"
    write_atomic(folder / f"{name}.onnx", portable_bytes(probe_graph(plan, kind, channels, layers, side)))
    kernel = 9 if kind == "convolution" else 1
    macs = layers * kernel * channels**2 * side**2
    return Probe(name=name, kind=kind, channels=channels, layers=layers, macs=macs)
