"""What a device is, and all that runs on it: numpy, the standard library and an engine runtime.

import devices
classify = devices.load("runs/digits-cpu/deploy", allow_unsigned=True)
print(classify(image).label)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from devices.classifier import load

__all__ = ["load"]


def __getattr__(name: str) -> object:
    # Deferred, so that reading a profile does not load numpy.
    if name == "load":
        from devices.classifier import load

        return load
    raise AttributeError(f"module 'devices' has no attribute '{name}'")
