"""Which engine a profile asks for, whether this host can build it, and who opens it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from devices.detect import Host, matches
from devices.engines import onnxruntime
from devices.engines.base import Engine, EngineInfo
from devices.engines.kernel_folder import kernels_path
from devices.engines.ort_session import require_provider
from devices.engines.tensorrt_options import INSTALL, TITLES, TensorRtOptions, is_tensorrt, require_precision
from devices.errors import DeviceError
from devices.profile import Precision, Profile

_RUNTIME_TITLES = {"onnxruntime": "ONNX Runtime", **TITLES}
_ELSEWHERE = (
    "Add `--host user@board` to do that part there, or use `--device cpu` here; `espalier stages`, `espalier predict` "
    "and `espalier devices show` work for every device"
)
_BY_TRTEXEC = "Take its bundle to the board with `espalier bench BUNDLE --host`: trtexec builds and measures it there"


def open_engine(content: bytes, info: EngineInfo, host: Host, kernels: Path | None = None) -> Engine:
    """Check and load an engine of any runtime from bytes that the caller has verified.

    `kernels` is a folder in which what TensorRT-RTX compiles is kept for the next start: the engine has then run once
    when it is handed out. Other runtimes compile nothing and leave it alone. Raises `DeviceError`, and `StorageError`
    for a folder that cannot be used.
    """
    if not is_tensorrt(info):
        return onnxruntime.open_engine(content, info, host)
    from devices.engines import tensorrt

    if kernels is None or info.runtime != "tensorrt_rtx":
        return tensorrt.open_engine(content, info, host)
    engine = tensorrt.open_engine(content, info, host, kernels_path(kernels, content))
    engine.make_ready()
    return engine


def tensorrt_options(
    profile: Profile,
    precision: Precision,
    batches: tuple[int, int, int] = (1, 1, 1),
    sparse: bool = False,
    dla_core: int | None = None,
) -> TensorRtOptions:
    """How an engine in this precision is built for a device of TensorRT or TensorRT-RTX.

    Raises `DeviceError` for what the profile says that the device cannot do, before anything is built.
    """
    runtime = profile.engine.runtime
    if runtime == "onnxruntime":
        raise DeviceError(f"device '{profile.name}'", "runs ONNX Runtime, not TensorRT", "Choose another device")
    require_precision_of(profile, precision)
    capability = profile.hardware.compute_capability or ""
    cores = profile.hardware.dla_cores or 0
    if dla_core is not None and dla_core >= cores:
        raise DeviceError(
            "DLA", f"a {profile.title} has {cores} cores, and core {dla_core} is asked for", "Use the GPU"
        )
    return TensorRtOptions(
        module=runtime,
        precision=precision,
        allowed=profile.engine.precisions,
        compute_capability=capability,
        batches=batches,
        sparse=sparse,
        dla_core=dla_core,
        workspace_mb=profile.engine.workspace_mb,
    )


def require_precision_of(profile: Profile, precision: Precision) -> None:
    """Raise `DeviceError` for a precision that the device does not compute in, by its profile."""
    runtime, capability = profile.engine.runtime, profile.hardware.compute_capability or ""
    require_precision(_RUNTIME_TITLES[runtime], precision, profile.engine.precisions, capability, profile.name)


def ort_options(profile: Profile) -> onnxruntime.OrtOptions:
    """Session options of an ONNX Runtime profile. Raises `DeviceError` when the profile lacks them."""
    engine = profile.engine
    if engine.provider is None or engine.threads is None:
        missing = "engine.provider" if engine.provider is None else "engine.threads"
        raise DeviceError(f"device '{profile.name}': {missing}", "is missing; ONNX Runtime needs it", "Add it")
    return onnxruntime.OrtOptions(provider=engine.provider, threads=engine.threads, session=profile.session)


def runs_here(profile: Profile, host: Host) -> bool:
    """Whether this host is the device: an engine for it can be run, and measured."""
    return matches(profile, host)


def require_buildable(profile: Profile, host: Host) -> None:
    """Raise `DeviceError` unless an engine for this profile can be built on this host.

    ONNX Runtime and TensorRT build for the machine that they are on; TensorRT-RTX builds ahead of time, on any. What is
    made here for a board of `trtexec` is the graph, which it builds an engine of.
    """
    runtime, where = profile.engine.runtime, f"device '{profile.name}'"
    if profile.engine.served_by == "trtexec":
        return
    if runtime == "onnxruntime":
        require_provider(onnxruntime.load_module(), ort_options(profile).provider)
    elif find_spec(runtime) is None and (runtime == "tensorrt_rtx" or matches(profile, host)):
        title, fix = _RUNTIME_TITLES[runtime], INSTALL[runtime] + instead_of_bindings(profile)
        raise DeviceError(where, f"needs {title}, which is not installed here ({runtime})", fix)
    if runtime != "tensorrt_rtx" and not matches(profile, host):
        machine = host.device_tree_model or host.machine
        what = f"its engine is built on the device itself by {_RUNTIME_TITLES[runtime]}, and this host ({machine}) is "
        raise DeviceError(where, f"{what}not a {profile.title}", _ELSEWHERE)


def instead_of_bindings(profile: Profile) -> str:
    """What serves a board that has TensorRT and not its bindings for Python; empty for other libraries."""
    if profile.engine.runtime != "tensorrt":
        return ""
    own = f'take a profile of your own: based_on = "{profile.name}", with served_by = "trtexec" under [engine]'
    return f". Where a board has trtexec alone, {own}"


def require_measurable(profile: Profile, host: Host) -> None:
    """Raise `DeviceError` unless an engine for this profile can be built and measured on this host."""
    require_buildable(profile, host)
    if profile.engine.served_by == "trtexec":
        what = "its engines are built and measured by trtexec over ssh, and not here"
        raise DeviceError(f"device '{profile.name}'", what, _BY_TRTEXEC)
    if not runs_here(profile, host):
        what = f"its engines can be built here and not measured: this host is not a {profile.title}"
        raise DeviceError(f"device '{profile.name}'", what, _ELSEWHERE)
