"""Which engine a profile asks for, and whether this host can build it."""

from __future__ import annotations

from devices.detect import Host, matches
from devices.engines import onnxruntime
from devices.errors import DeviceError
from devices.profile import Profile

_RUNTIME_TITLES = {"onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}


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
