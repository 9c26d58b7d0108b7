"""Which engine a profile asks for, whether this host can build it, and who opens it."""

from __future__ import annotations

from devices.detect import Host, matches
from devices.engines import onnxruntime
from devices.engines.base import Engine, EngineInfo
from devices.engines.tensorrt_options import TensorRtOptions, is_tensorrt, require_precision
from devices.errors import DeviceError
from devices.profile import Precision, Profile

_RUNTIME_TITLES = {"onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}


def open_engine(content: bytes, info: EngineInfo, host: Host) -> Engine:
    """Check and load an engine of any runtime from bytes that the caller has verified. Raises `DeviceError`."""
    if is_tensorrt(info):
        from devices.engines import tensorrt

        return tensorrt.open_engine(content, info, host)
    return onnxruntime.open_engine(content, info, host)


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
    capability = profile.hardware.compute_capability or ""
    require_precision(_RUNTIME_TITLES[runtime], precision, profile.engine.precisions, capability)
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
        workspace_mb=getattr(profile.measure, "workspace_mb", None),
    )


def ort_options(profile: Profile) -> onnxruntime.OrtOptions:
    """Session options of an ONNX Runtime profile. Raises `DeviceError` when the profile lacks them."""
    engine = profile.engine
    if engine.provider is None or engine.threads is None:
        missing = "engine.provider" if engine.provider is None else "engine.threads"
        raise DeviceError(f"device '{profile.name}': {missing}", "is missing; ONNX Runtime needs it", "Add it")
    return onnxruntime.OrtOptions(provider=engine.provider, threads=engine.threads)


def require_buildable(profile: Profile, host: Host) -> None:
    """Raise `DeviceError` unless an engine for this profile can be built and measured on this host."""
    title = _RUNTIME_TITLES[profile.engine.runtime]
    instead = (
        "Use `--device cpu` to run the whole chain here; `espalier stages` and `espalier devices show` work for "
        "every device"
    )
    if profile.engine.runtime != "onnxruntime":
        reasons = [f"it needs a {title} engine, and this version builds ONNX Runtime engines only"]
        if not matches(profile, host):
            reasons.append(f"and this host is not a {profile.title}, so nothing could be measured")
        raise DeviceError(f"device '{profile.name}'", ", ".join(reasons), instead)
    ort_options(profile)
    onnxruntime.load_module()
    if not matches(profile, host):
        raise DeviceError(f"device '{profile.name}'", f"this host ({host.machine}) is not a {profile.title}", instead)
