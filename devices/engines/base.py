"""What every engine offers, whatever library runs it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol, Union

import numpy as np
from numpy.typing import NDArray

from devices.errors import BundleError, DataError

FloatArray = NDArray[np.float32]
Outputs = Union[FloatArray, "tuple[FloatArray, ...]"]
"""One array (N, ...), or a tuple of them where a network has several outputs."""
Port = tuple[str, tuple[int, ...]]
"""Name and shape of an output, without the batch."""

_MAKE_AGAIN = "Build the engine again"
_MAX_THREADS = 1024
_MAX_CLASSES = 1 << 24
_MAX_OUTPUTS = 256
_MAX_VALUES = 1 << 31
_MAX_AXES = 8
_MAX_SETTINGS = 256
_OPTIONAL = ("outputs", "settings", "compute_capability", "batches")


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
    """The only output, or the first."""
    classes: int
    """Length of its first axis after the batch."""
    onnx_sha256: str
    """Digest of the ONNX file that the engine was built from."""
    outputs: tuple[Port, ...] = ()
    """All outputs, unless there is one alone and it is one row of classes."""
    settings: tuple[tuple[str, str], ...] = ()
    """Options of the build or the session that are not the default: name and value."""
    compute_capability: str = ""
    """Of the GPU that the engine was built for, such as '8.9'; empty on a CPU."""
    batches: tuple[int, int, int] | None = None
    """Least, best and most images of a query. None: any number."""

    @property
    def ports(self) -> tuple[Port, ...]:
        """Name and shape of every output."""
        return self.outputs or ((self.output_name, (self.classes,)),)

    def as_dict(self) -> dict[str, object]:
        """For JSON; without the optional fields that say nothing, as readers of before there were any expect."""
        content = asdict(self)
        return {name: value for name, value in content.items() if value or name not in _OPTIONAL}

    @staticmethod
    def from_dict(raw: Any, where: str) -> EngineInfo:
        """Read back; raises `BundleError` on a missing, unknown or mistyped key, or a count out of range."""
        declared = {field.name: str(field.type) for field in fields(EngineInfo)}
        if not isinstance(raw, dict) or set(raw) | set(_OPTIONAL) != set(declared):
            raise BundleError(where, f"must have exactly the keys {', '.join(declared)}", _MAKE_AGAIN)
        values = {"compute_capability": "", **raw}
        values["input_shape"] = _read_counts(raw["input_shape"], f"{where}: input_shape")
        for name, annotation in declared.items():
            wanted = {"str": str, "int": int}.get(annotation)
            if wanted and type(values[name]) is not wanted:
                raise BundleError(f"{where}: {name}", f"must be of type {annotation}", _MAKE_AGAIN)
        for name, highest in (("threads", _MAX_THREADS), ("classes", _MAX_CLASSES)):
            if not 1 <= values[name] <= highest:
                raise BundleError(f"{where}: {name}", f"must be from 1 to {highest}", _MAKE_AGAIN)
        values["outputs"] = _read_ports(raw.get("outputs", []), f"{where}: outputs")
        values["settings"] = _read_settings(raw.get("settings", []), f"{where}: settings")
        values["batches"] = _read_batches(raw.get("batches"), f"{where}: batches")
        info = EngineInfo(**values)
        if info.outputs and (info.outputs[0][0], info.outputs[0][1][:1]) != (info.output_name, (info.classes,)):
            raise BundleError(f"{where}: outputs", "does not begin with output_name and classes", _MAKE_AGAIN)
        return info


def _read_counts(raw: Any, where: str) -> tuple[int, int, int]:
    if not isinstance(raw, list) or len(raw) != 3 or not all(type(n) is int and n > 0 for n in raw):
        raise BundleError(where, "must be three positive whole numbers", _MAKE_AGAIN)
    first, second, third = raw
    return first, second, third


def _read_batches(raw: Any, where: str) -> tuple[int, int, int] | None:
    if raw is None:
        return None
    batches = _read_counts(raw, where)
    if list(batches) != sorted(batches) or batches[-1] > _MAX_VALUES:
        raise BundleError(where, f"must be ascending and at most {_MAX_VALUES}", _MAKE_AGAIN)
    return batches


def _read_settings(raw: Any, where: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(raw, list) or len(raw) > _MAX_SETTINGS:
        raise BundleError(where, f"must be a list of at most {_MAX_SETTINGS}", _MAKE_AGAIN)
    for entry in raw:
        if not isinstance(entry, list) or len(entry) != 2 or not all(isinstance(text, str) for text in entry):
            raise BundleError(where, "must hold pairs of name and value, both texts", _MAKE_AGAIN)
    return tuple((name, value) for name, value in raw)


def _read_ports(raw: Any, where: str) -> tuple[Port, ...]:
    if not isinstance(raw, list) or len(raw) > _MAX_OUTPUTS:
        raise BundleError(where, f"must be a list of at most {_MAX_OUTPUTS}", _MAKE_AGAIN)
    ports: list[Port] = []
    for entry in raw:
        name, shape = entry if isinstance(entry, list) and len(entry) == 2 else ("", None)
        sound = isinstance(name, str) and isinstance(shape, list) and len(shape) <= _MAX_AXES
        sizes = tuple(shape) if sound and shape else ()
        if not sound or not all(type(size) is int and size > 0 for size in sizes) or math.prod(sizes) > _MAX_VALUES:
            raise BundleError(where, "must hold names with shapes of positive whole numbers", _MAKE_AGAIN)
        ports.append((name, sizes))
    return tuple(ports)


def checked_images(images_NCHW: FloatArray, info: EngineInfo) -> FloatArray:
    """The images, (N, C, H, W), as an engine reads them. Raises `DataError` when it does not take them."""
    images = np.ascontiguousarray(images_NCHW, dtype=np.float32)
    if images.ndim != 4 or images.shape[1:] != info.input_shape or not len(images):
        wanted = ", ".join(map(str, info.input_shape))
        raise DataError("images", f"have shape {images.shape}, and the engine takes (N, {wanted})")
    return images


class Engine(Protocol):
    """An engine that is loaded and ready."""

    @property
    def info(self) -> EngineInfo:
        """What was checked when it was opened."""

    def run(self, images_NCHW: FloatArray) -> FloatArray:
        """The first output, such as logits (N, classes), of images (N, C, H, W) with values 0 to 1."""

    def run_all(self, images_NCHW: FloatArray) -> tuple[FloatArray, ...]:
        """Every output, each (N, ...)."""

    def bind(self, images_NCHW: FloatArray) -> Callable[[], None]:
        """A call that runs these images once, input and output already in place: what latency is taken of."""
