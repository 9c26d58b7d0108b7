"""NVIDIA's management library, by ctypes: power, temperature, clocks, memory and what holds the clocks back.

On Jetsons it is missing, or starts and supports little: each figure that it refuses is absent, with its reason.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from devices.telemetry.channel import Absent, Channel, Found

_LIBRARY = "libnvidia-ml.so.1"
_NAMES = {
    3: "not supported",
    4: "no permission",
    9: "the driver is not loaded",
    12: "the library is too old",
    13: "the library is too old",
    18: "the driver and the library do not fit",
}
_TEMPERATURE_GPU = 0
_NAME_BYTES = 96
_CLOCK_SM, _CLOCK_MEMORY = 1, 2
# Bits that only say that nothing runs, or that someone set the clocks.
_IDLE, _APPLICATIONS_CLOCKS = 0x1, 0x2
REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "temperature",
    0x40: "temperature (hardware)",
    0x80: "power brake",
    0x100: "display clocks",
}
"""Why clocks are held back: bits of nvmlClocksEventReasons (NVML reference, `nvml.h`)."""


class _Memory(ctypes.Structure):
    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """What a GPU is, as far as it is known."""

    name: str
    compute_capability: str | None = None
    """Such as '8.9'."""
    memory_bytes: int | None = None


class GpuFigure:
    """One figure of one GPU."""

    def __init__(self, read: Callable[[], float]) -> None:
        """`read` raises `OSError` where NVML refuses."""
        self._read = read

    def __call__(self) -> float | None:
        """The figure, or None where the GPU does not give it now."""
        try:
            return self._read()
        except OSError:
            return None

    def close(self) -> None:
        """Nothing is open: NVML ends with the process."""


def load_nvml() -> Any | None:
    """The library, started; None where there is none or it does not start."""
    try:
        library = ctypes.CDLL(_LIBRARY)
        return library if library.nvmlInit_v2() == 0 else None
    except (OSError, AttributeError):
        return None


def list_gpus(library: Any | None) -> tuple[Gpu, ...]:
    """The GPUs of this machine; those that do not tell their name are left out. None: there are none."""
    if library is None:
        return ()
    found = []
    for device in _devices(library):
        name = ctypes.create_string_buffer(_NAME_BYTES)
        try:
            _call(library, "nvmlDeviceGetName", device, name, ctypes.c_uint(_NAME_BYTES))
        except OSError:
            continue
        capability, memory = _capability(library, device), _total_memory(library, device)
        text = name.value.decode(errors="replace").strip()
        found.append(Gpu(name=text, compute_capability=capability, memory_bytes=memory))
    return tuple(found)


def nvml_channels(library: Any | None) -> Found:
    """`power.gpuN` in W, `temperature.gpuN` in °C, clocks in MHz, memory in MB, `throttle.gpuN` as bits of reasons."""
    if library is None:
        return Found(absent=(Absent("nvml", "no NVIDIA driver"),))
    channels, absent = [], []
    for index, device in enumerate(_devices(library)):
        for name, unit, read in _figures(library, device):
            full = f"{name.split('.')[0]}.gpu{index}{name.partition('.')[2]}"
            try:
                read()
            except OSError as cause:
                absent.append(Absent(full, str(cause)))
            else:
                channels.append(Channel(full, unit, GpuFigure(read)))
    return Found(tuple(channels), tuple(absent))


def reasons_of(bits: int) -> tuple[str, ...]:
    """What holds the clocks back, in words."""
    return tuple(text for bit, text in REASONS.items() if bits & bit)


def _devices(library: Any) -> list[Any]:
    count = ctypes.c_uint()
    if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return []
    devices = []
    for index in range(count.value):
        device = ctypes.c_void_p()
        if library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device)) == 0:
            devices.append(device)
    return devices


def _figures(library: Any, device: Any) -> Iterator[tuple[str, str, Callable[[], float]]]:
    """Name, unit and how to read it; what follows the point stands behind the GPU's number."""
    whole = partial(_whole, library, device)
    yield "power", "W", partial(whole, "nvmlDeviceGetPowerUsage", 1e-3)
    yield "temperature", "°C", partial(whole, "nvmlDeviceGetTemperature", 1.0, _TEMPERATURE_GPU)
    yield "clock", "MHz", partial(whole, "nvmlDeviceGetClockInfo", 1.0, _CLOCK_SM)
    yield "clock.-memory", "MHz", partial(whole, "nvmlDeviceGetClockInfo", 1.0, _CLOCK_MEMORY)
    yield "memory", "MB", partial(_memory_mb, library, device)
    yield "throttle", "reasons", partial(_reasons, library, device)


def _call(library: Any, name: str, *arguments: Any) -> None:
    function = getattr(library, name, None)
    code = 13 if function is None else function(*arguments)
    if code != 0:
        raise OSError(_NAMES.get(code, f"NVML error {code}"))


def _whole(library: Any, device: Any, name: str, scale: float, kind: int | None = None) -> float:
    value = ctypes.c_uint()
    kinds = () if kind is None else (ctypes.c_int(kind),)
    _call(library, name, device, *kinds, ctypes.byref(value))
    return value.value * scale


def _capability(library: Any, device: Any) -> str | None:
    major, minor = ctypes.c_int(), ctypes.c_int()
    try:
        _call(library, "nvmlDeviceGetCudaComputeCapability", device, ctypes.byref(major), ctypes.byref(minor))
    except OSError:
        return None
    return f"{major.value}.{minor.value}"


def _total_memory(library: Any, device: Any) -> int | None:
    memory = _Memory()
    try:
        _call(library, "nvmlDeviceGetMemoryInfo", device, ctypes.byref(memory))
    except OSError:
        return None
    return int(memory.total)


def _memory_mb(library: Any, device: Any) -> float:
    memory = _Memory()
    _call(library, "nvmlDeviceGetMemoryInfo", device, ctypes.byref(memory))
    return float(memory.used) / 1e6


def _reasons(library: Any, device: Any) -> float:
    bits = ctypes.c_ulonglong()
    newer, older = "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"
    _call(library, newer if hasattr(library, newer) else older, device, ctypes.byref(bits))
    return float(bits.value & ~(_IDLE | _APPLICATIONS_CLOCKS))
