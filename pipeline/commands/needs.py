"""What a command needs installed."""

from __future__ import annotations

from importlib.util import find_spec

from devices.errors import DeviceError


def require_compress() -> None:
    """Raise `DeviceError` where the libraries of the host's part are not installed."""
    needed = ("pydantic", "torch", "onnx", "onnxscript", "onnxsim", "onnxruntime", "safetensors", "sklearn", "scipy")
    missing = [name for name in (*needed, "PIL", "jinja2") if find_spec(name) is None]
    if missing:
        raise DeviceError(
            "installation",
            f"this is the base install for boards: {', '.join(missing)} missing",
            "Install the host's part: `pip install '.[compress]'` in Espalier's source folder",
        )
