"""Small networks for TensorRT, and a stand-in for its module in versions that cannot be installed here.

The stand-in knows the names that the real bindings of TensorRT 8.6.1, 10.3.0 and 11.4.0 have (recorded from their
wheels in `recorded/tensorrt_names.json`) and refuses every other. It serves for the mapping of options and for errors
only: it builds nothing, and nothing that an engine answers is tested with it.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_NAMES = Path(__file__).parent / "recorded" / "tensorrt_names.json"
SIZE = 16
CLASSES = 5
Array = NDArray[Any]


class _Graph:
    def __init__(self, half: bool) -> None:
        self.dtype = np.float16 if half else np.float32
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, value: Array) -> str:
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def quantized(self, value: str, name: str) -> str:
        scale = self.weight(f"{name}_scale", np.array(0.03, dtype=self.dtype))
        zero = self.weight(f"{name}_zero", np.array(0, dtype=np.int8))
        steps = self.node("QuantizeLinear", (value, scale, zero), f"{name}_q")
        return self.node("DequantizeLinear", (steps, scale, zero), f"{name}_dq")

    def kernel(self, name: str, value: Array, quantize: bool) -> str:
        if not quantize:
            return self.weight(name, value.astype(self.dtype))
        scale = np.abs(value).reshape(len(value), -1).max(axis=1) / 127
        steps = np.round(value / scale.reshape(-1, *[1] * (value.ndim - 1))).astype(np.int8)
        zero = self.weight(f"{name}_zero", np.zeros(len(value), dtype=np.int8))
        places = self.weight(f"{name}_steps", steps), self.weight(f"{name}_scale", scale.astype(self.dtype)), zero
        return self.node("DequantizeLinear", places, f"{name}_dq", axis=0)


def write_network(
    path: Path, half: bool = False, quantize: bool = False, batch: int | str = "batch", size: int | str = SIZE
) -> Path:
    """Two convolutions and a matrix product, in FP32 or FP16; with `quantize` the convolutions in INT8 (QDQ)."""
    rng = np.random.default_rng(0)
    graph = _Graph(half)
    value = graph.node("Cast", ["image"], "to_half", to=TensorProto.FLOAT16) if half else "image"
    channels = 3
    for index, width in enumerate((8, 16)):
        kernel = rng.normal(0, 0.2, (width, channels, 3, 3))
        value = graph.quantized(value, f"image_{index}") if quantize else value
        bias = graph.weight(f"bias_{index}", np.zeros(width, dtype=graph.dtype))
        weights = graph.kernel(f"kernel_{index}", kernel, quantize)
        value = graph.node("Conv", (value, weights, bias), f"conv_{index}", pads=[1] * 4)
        value = graph.node("Relu", [value], f"relu_{index}")
        channels = width
    value = graph.node("GlobalAveragePool", [value], "pool")
    value = graph.node("Flatten", [value], "flat")
    head = graph.weight("head", rng.normal(0, 0.2, (CLASSES, channels)).astype(graph.dtype))
    offset = graph.weight("offset", np.zeros(CLASSES, dtype=graph.dtype))
    value = graph.node("Gemm", (value, head, offset), "fc", transB=1)
    value = graph.node("Cast", [value], "to_float", to=TensorProto.FLOAT) if half else value
    graph.nodes[-1].output[0] = "logits"
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, size, size])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES])
    made = helper.make_graph(graph.nodes, "small", [image], [logits], graph.weights)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@dataclass
class Tensor:
    """Stands for an `ITensor`."""

    name: str
    shape: tuple[int, ...]
    type_name: str = "FLOAT"

    @property
    def dtype(self) -> Any:
        """With a name, as the library's."""
        return SimpleNamespace(name=self.type_name)


@dataclass
class Layer:
    """Stands for an `ILayer`."""

    name: str
    kind: str
    inputs: tuple[Tensor, ...]
    output: Tensor
    num_outputs: int = 1

    @property
    def type(self) -> Any:
        """With a name, as the library's."""
        return SimpleNamespace(name=self.kind)

    @property
    def num_inputs(self) -> int:
        """How many."""
        return len(self.inputs)

    def get_input(self, index: int) -> Tensor:
        """One of them."""
        return self.inputs[index]

    def get_output(self, _: int) -> Tensor:
        """The only one."""
        return self.output


def convolution(type_name: str, quantized: bool = False) -> list[Layer]:
    """A convolution of two tensors of this type; quantized ones come from DEQUANTIZE of INT8."""
    image, kernel = Tensor("image", (-1, 3, 4, 4), type_name), Tensor("kernel", (5, 3, 4, 4), type_name)
    layers = []
    if quantized:
        for tensor in (image, kernel):
            steps = Tensor(f"{tensor.name}_q", tensor.shape, "INT8")
            layers.append(Layer(steps.name, "QUANTIZE", (tensor,), steps))
            made = Tensor(f"{tensor.name}_dq", tensor.shape, type_name)
            layers.append(Layer(made.name, "DEQUANTIZE", (steps,), made))
        image, kernel = layers[1].output, layers[3].output
    return [*layers, Layer("conv", "CONVOLUTION", (image, kernel), Tensor("sums", (-1, 5, 1, 1), type_name))]


@dataclass
class Scene:
    """What the stand-in is to do, and what it was told."""

    layers: list[Layer]
    batch: int = -1
    errors: list[Any] = field(default_factory=list)
    """Of the parser; any makes it fail."""
    said: list[tuple[str, str]] = field(default_factory=list)
    """Severity and text that the build, or the loading, logs."""
    plan: bytes | None = b"plan"
    """None: nothing is built, or loaded."""
    dla_cores: int = 2
    dla_takes: tuple[str, ...] = ()
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def set_flags(self) -> set[str]:
        """Names of the builder flags that were set."""
        return {call[1].name for call in self.calls if call[0] == "set_flag"}


class _Strict:
    """Has the recorded names of a class, and no other."""

    def __init__(self, names: Sequence[str], scene: Scene, results: dict[str, Any]) -> None:
        self.__dict__.update(_names=names, _scene=scene, _results=results)

    def __getattr__(self, name: str) -> Any:
        if name not in self._names:
            raise AttributeError(f"this version has no {name}")
        if name in self._results and not callable(self._results[name]):
            return self._results[name]

        def call(*arguments: Any) -> Any:
            self._scene.calls.append((name, *arguments))
            result = self._results.get(name)
            return result(*arguments) if callable(result) else result

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._names:
            raise AttributeError(f"this version has no {name}")
        self._scene.calls.append((name, value))


class _LoggerBase:
    pass


def module(version: str, scene: Scene, names_of: str | None = None) -> Any:
    """The stand-in for `tensorrt` of this version, with the names of the recorded one."""
    recorded: dict[str, list[str]] = json.loads(_NAMES.read_text())[names_of or version]

    def strict(kind: str, **results: Any) -> _Strict:
        return _Strict(recorded[kind], scene, results)

    image, logits = Tensor("image", (scene.batch, 3, 4, 4)), Tensor("logits", (scene.batch, 5))
    network = strict(
        "INetworkDefinition",
        num_inputs=1,
        num_outputs=1,
        num_layers=len(scene.layers),
        get_input=lambda _: image,
        get_output=lambda _: logits,
        get_layer=lambda index: scene.layers[index],
    )
    cache = strict("ITimingCache", serialize=lambda: b"times", combine=lambda *_: True)
    config = strict(
        "IBuilderConfig",
        create_timing_cache=lambda _: cache,
        get_timing_cache=lambda: cache,
        set_timing_cache=lambda *_: True,
        can_run_on_DLA=lambda layer: layer.name in scene.dla_takes,
    )

    def make_builder(logger: Any) -> _Strict:
        def build(*_: Any) -> bytes | None:
            for severity, text in scene.said:
                logger.log(SimpleNamespace(name=severity), text)
            return scene.plan

        return strict(
            "Builder",
            num_DLA_cores=scene.dla_cores,
            max_DLA_batch_size=32,
            create_network=lambda _: network,
            create_builder_config=lambda: config,
            create_optimization_profile=lambda: strict("IOptimizationProfile"),
            build_serialized_network=build,
        )

    def make_parser(_: Any, logger: Any) -> _Strict:
        def parse(_: bytes) -> bool:
            for error in scene.errors:
                for text in getattr(error, "logged", ()):
                    logger.log(SimpleNamespace(name="ERROR"), text)
            return not scene.errors

        return strict(
            "OnnxParser", parse=parse, num_errors=len(scene.errors), get_error=lambda index: scene.errors[index]
        )

    engine = strict(
        "ICudaEngine",
        num_io_tensors=2,
        get_tensor_name=lambda index: (image.name, logits.name)[index],
        get_tensor_shape=lambda name: {image.name: image, logits.name: logits}[name].shape,
    )

    def make_runtime(logger: Any) -> _Strict:
        def deserialize(_: bytes) -> _Strict | None:
            for severity, text in scene.said:
                logger.log(SimpleNamespace(name=severity), text)
            return None if scene.plan is None else engine

        return strict("Runtime", deserialize_cuda_engine=deserialize)

    flags = {name: enum.IntEnum(name, recorded[name]) for name in ("BuilderFlag", "MemoryPoolType", "DeviceType")}
    creation = "NetworkDefinitionCreationFlag"
    flags[creation] = enum.IntEnum(creation, recorded[creation], start=0)
    return SimpleNamespace(
        __version__=version,
        ILogger=_LoggerBase,
        Builder=make_builder,
        OnnxParser=make_parser,
        Runtime=make_runtime,
        **flags,
    )
