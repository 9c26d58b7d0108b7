"""What TensorRT and TensorRT-RTX are asked for, and what a version of theirs cannot do."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from devices.engines.base import EngineInfo
from devices.errors import DeviceError
from devices.profile import Precision

Module = Literal["tensorrt", "tensorrt_rtx"]

TITLES: dict[str, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
INSTALL: dict[str, str] = {
    "tensorrt": "Install it (pip install tensorrt; on a Jetson, JetPack brings it for the system's Python)",
    "tensorrt_rtx": "Install it: pip install tensorrt-rtx",
}
_STRONGLY_TYPED_SINCE = 10
_LAST_DLA_OF_10 = (10, 7)
_DLA_AGAIN = (11, 4, 1)


@dataclass(frozen=True, kw_only=True)
class TensorRtOptions:
    """How an engine is built. The precision itself lives in the graph."""

    module: Module
    precision: Precision
    """What the graph was made in; a graph of something else is refused."""
    allowed: tuple[Precision, ...]
    """What the device computes convolutions and matrix products in; a layer of something else is refused."""
    compute_capability: str = ""
    """Of the GPU to build for, such as '8.9'. TensorRT builds for the GPU at hand: empty asks for no check of it."""
    batches: tuple[int, int, int] = (1, 1, 1)
    """Least, best and most images of a query."""
    sparse: bool = False
    """Whether the weights are 2:4 sparse."""
    dla_core: int | None = None
    """The DLA core to run on, with the GPU for what it does not take. None: the GPU alone."""
    workspace_mb: int | None = None
    """Most scratch memory in MiB. None: all that the device has."""

    def __post_init__(self) -> None:
        least, best, most = self.batches
        if not 1 <= least <= best <= most:
            raise DeviceError("batch sizes", f"{self.batches} are not ascending from 1", "Give least, best and most")
        if self.module == "tensorrt_rtx" and not self.compute_capability:
            what = "is missing; TensorRT-RTX builds ahead of time for a compute capability"
            raise DeviceError("hardware.compute_capability", what, "Add it to the device's profile")
        if self.dla_core is not None:
            self._require_dla()

    def _require_dla(self) -> None:
        if self.module == "tensorrt_rtx":
            raise DeviceError("DLA", "TensorRT-RTX has none", "Build for the GPU")
        if self.precision != "fp16":
            what = f"takes FP16 here, not {self.precision.upper()}; quantized graphs (QDQ) it does not take at all"
            raise DeviceError("DLA", what, "Build an FP16 engine for the DLA, or this one for the GPU")
        if len(set(self.batches)) > 1:
            what = f"takes one size of batch, and {self.batches} is a range"
            raise DeviceError("DLA", what, "Give least, best and most alike")

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> TensorRtOptions:
        """Read back what `as_dict` wrote."""
        return TensorRtOptions(**{**raw, "allowed": tuple(raw["allowed"]), "batches": tuple(raw["batches"])})

    @property
    def settings(self) -> tuple[tuple[str, str], ...]:
        """Those that are not the default and stand nowhere else in an engine's description, as texts."""
        found: list[tuple[str, str]] = [("precision", self.precision)]
        if self.sparse:
            found.append(("sparse", "true"))
        if self.dla_core is not None:
            found.append(("dla_core", str(self.dla_core)))
        if self.workspace_mb is not None:
            found.append(("workspace_mb", str(self.workspace_mb)))
        return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What one version of one module wants to be told."""

    title: str
    version: str
    strongly_typed: bool
    """Precisions come from the graph alone; without it, flags allow them."""
    typed_by_flag: bool
    """The network must be asked to be strongly typed."""
    ahead_of_time: bool
    """Builds for a named compute capability, with no GPU and no timing."""


def dialect_of(module: Module, version: str, dla: bool) -> Dialect:
    """What this version takes. Raises `DeviceError` when it has no DLA and one is asked for."""
    title, numbers = TITLES[module], version_numbers(version)
    if module == "tensorrt_rtx":
        return Dialect(title=title, version=version, strongly_typed=True, typed_by_flag=True, ahead_of_time=True)
    if dla and numbers[:2] > _LAST_DLA_OF_10 and numbers[:3] < _DLA_AGAIN:
        what = f"TensorRT {version} has no support for it (up to 10.7 has, and from 11.4.1 on AGX Orin)"
        raise DeviceError("DLA", what, "Build for the GPU")
    major = numbers[0]
    # With the DLA, TensorRT 10 is told by flag: its strong typing is for the GPU.
    strong = major > _STRONGLY_TYPED_SINCE or (major == _STRONGLY_TYPED_SINCE and not dla)
    typed = strong and major == _STRONGLY_TYPED_SINCE
    return Dialect(title=title, version=version, strongly_typed=strong, typed_by_flag=typed, ahead_of_time=False)


def version_numbers(version: str) -> tuple[int, ...]:
    """Leading numbers of a version: (10, 3, 0) of '10.3.0.30.post1'. Raises `DeviceError` when there are none."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    if not found:
        raise DeviceError("engine runtime", f"has the version '{version}', which is no number", "Install it again")
    return tuple(int(number) for number in found.group().split(".")[:3])


def require_precision(
    title: str, precision: Precision, allowed: tuple[Precision, ...], capability: str, device: str = ""
) -> None:
    """Raise `DeviceError` for a precision that the device's profile does not have, before anything is built."""
    if precision in allowed:
        return
    of_gpu = f" (compute capability {capability})" if capability else ""
    what = f"{title} computes no {precision.upper()} there{of_gpu}; it has {', '.join(allowed).upper()}"
    where, fix = (f"device '{device}'", "Set quantize.precision to") if device else ("precision", "Choose")
    raise DeviceError(where, what, f"{fix} {' or '.join(allowed)}")


def provider(options: TensorRtOptions) -> str:
    """Where the engine runs."""
    return "GPU" if options.dla_core is None else "DLA"


def dla_core_of(info: EngineInfo) -> int:
    """The DLA core that an engine runs on. Raises `DeviceError` when its description does not say."""
    core = dict(info.settings).get("dla_core", "")
    if not re.fullmatch(r"\d", core):
        raise DeviceError("engine", "is for the DLA and does not say which core", "Build it again")
    return int(core)


def is_tensorrt(info: EngineInfo) -> bool:
    """Whether TensorRT or TensorRT-RTX runs the engine."""
    return info.runtime in TITLES
