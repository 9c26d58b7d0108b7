"""What every engine offers, whatever library runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from devices.errors import BundleError

FloatArray = NDArray[np.float32]

_MAKE_AGAIN = "Build the engine again"
_MAX_THREADS = 1024
_MAX_CLASSES = 1 << 24


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """What an engine needs in order to run; checked before its bytes reach the runtime."""

    runtime: str
    runtime_version: str
    provider: str
    host_class: str
    """Machine and vector extension that the engine was optimized for."""
    threads: int
    input_name: str
    input_shape: tuple[int, int, int]
    """Channels, height, width; the batch is free."""
    output_name: str
    classes: int
    onnx_sha256: str
    """Digest of the ONNX file that the engine was built from."""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(raw: Any, where: str) -> EngineInfo:
        """Read back; raises `BundleError` on a missing, unknown or mistyped key, or a count out of range."""
        declared = {field.name: str(field.type) for field in fields(EngineInfo)}
        if not isinstance(raw, dict) or set(raw) != set(declared):
            raise BundleError(where, f"must have exactly the keys {', '.join(declared)}", _MAKE_AGAIN)
        values = dict(raw)
        shape = values["input_shape"]
        if not isinstance(shape, list) or len(shape) != 3 or not all(type(n) is int and n > 0 for n in shape):
            raise BundleError(f"{where}: input_shape", "must be three positive whole numbers", _MAKE_AGAIN)
        values["input_shape"] = tuple(shape)
        for name, annotation in declared.items():
            wanted = {"str": str, "int": int}.get(annotation)
            if wanted and type(values[name]) is not wanted:
                raise BundleError(f"{where}: {name}", f"must be of type {annotation}", _MAKE_AGAIN)
        for name, highest in (("threads", _MAX_THREADS), ("classes", _MAX_CLASSES)):
            if not 1 <= values[name] <= highest:
                raise BundleError(f"{where}: {name}", f"must be from 1 to {highest}", _MAKE_AGAIN)
        return EngineInfo(**values)


class Engine(Protocol):
    """An engine that is loaded and ready."""

    @property
    def info(self) -> EngineInfo:
        """What was checked when it was opened."""

    def run(self, images_NCHW: FloatArray) -> FloatArray:
        """Logits (N, classes) of images (N, C, H, W) with values 0 to 1."""

    def bind(self, images_NCHW: FloatArray) -> Callable[[], None]:
        """A call that runs these images once, input and output already in place: what latency is taken of."""
