"""What is made of NVML's answers. The library is a stand-in that answers, or refuses, as a driver does."""

from __future__ import annotations

from typing import Any

from devices.telemetry import nvml
from devices.telemetry.channel import Found


class Library:
    """Two GPUs; figures are written through the pointers, as by the real one. A code that is not 0 refuses."""

    def __init__(self, codes: dict[str, int] | None = None, reasons: int = 0x24) -> None:
        self.codes, self.reasons = codes or {}, reasons

    def __getattr__(self, name: str) -> Any:
        values: dict[str, Any] = {
            "nvmlDeviceGetCount_v2": 2,
            "nvmlDeviceGetPowerUsage": 61_250,
            "nvmlDeviceGetTemperature": 44,
            "nvmlDeviceGetClockInfo": 2520,
            "nvmlDeviceGetCurrentClocksThrottleReasons": self.reasons,
        }
        if not name.startswith("nvml") or name in ("nvmlDeviceGetCurrentClocksEventReasons",):
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            if code := self.codes.get(name, 0):
                return code
            if name == "nvmlDeviceGetName":
                arguments[1].value = b"NVIDIA L4"
                return 0
            if name == "nvmlDeviceGetCudaComputeCapability":
                arguments[1]._obj.value, arguments[2]._obj.value = 8, 9
                return 0
            target = arguments[-1]._obj
            if name == "nvmlDeviceGetMemoryInfo":
                target.total, target.free, target.used = 24_000_000_000, 23_000_000_000, 1_000_000_000
            elif name == "nvmlDeviceGetHandleByIndex_v2":
                target.value = 1000 + arguments[0].value
            else:
                target.value = values[name]
            return 0

        return call


def read(found: Found) -> dict[str, tuple[float | None, str]]:
    return {channel.name: (channel.read(), channel.unit) for channel in found.channels}


def test_figures_of_every_gpu() -> None:
    found = nvml.nvml_channels(Library())
    figures = read(found)
    assert found.absent == ()
    assert len(figures) == 12
    assert figures["power.gpu0"] == (61.25, "W")
    assert figures["temperature.gpu1"] == (44.0, "°C")
    assert figures["clock.gpu1"] == figures["clock.gpu0-memory"] == (2520.0, "MHz")
    assert figures["memory.gpu0"] == (1000.0, "MB")
    assert nvml.reasons_of(int(figures["throttle.gpu0"][0] or 0)) == ("power cap", "temperature")


def test_what_the_driver_refuses_is_absent_with_its_reason() -> None:
    found = nvml.nvml_channels(Library({"nvmlDeviceGetPowerUsage": 3, "nvmlDeviceGetTemperature": 77}))
    reasons = {entry.name: entry.why for entry in found.absent}
    assert reasons["power.gpu0"] == "not supported"
    assert reasons["temperature.gpu1"] == "NVML error 77"
    assert not {"power.gpu0", "power.gpu1"} & set(read(found))


def test_a_gpu_that_is_lost_meanwhile_gives_nothing() -> None:
    library = Library()
    found = nvml.nvml_channels(library)
    library.codes = {"nvmlDeviceGetPowerUsage": 15}
    assert read(found)["power.gpu0"] == (None, "W")


def test_an_idle_gpu_and_clocks_that_someone_set_are_not_held_back() -> None:
    assert read(nvml.nvml_channels(Library(reasons=0x3)))["throttle.gpu0"] == (0.0, "reasons")
    assert read(nvml.nvml_channels(Library(reasons=0x9)))["throttle.gpu0"] == (8.0, "reasons")
    assert nvml.reasons_of(0x8 | 0x40) == ("hardware slowdown", "temperature (hardware)")


def test_no_driver_no_figures() -> None:
    found = nvml.nvml_channels(None)
    assert found.channels == ()
    assert [(entry.name, entry.why) for entry in found.absent] == [("nvml", "no NVIDIA driver")]


def test_a_driver_that_lists_no_gpu() -> None:
    assert nvml.nvml_channels(Library({"nvmlDeviceGetCount_v2": 9})) == Found()


def test_gpus_tell_name_capability_and_memory() -> None:
    assert nvml.list_gpus(None) == ()
    known = nvml.Gpu(name="NVIDIA L4", compute_capability="8.9", memory_bytes=24_000_000_000)
    assert nvml.list_gpus(Library()) == (known, known)


def test_what_a_gpu_does_not_tell_of_itself_is_left_open() -> None:
    refused = {"nvmlDeviceGetCudaComputeCapability": 3, "nvmlDeviceGetMemoryInfo": 3}
    assert nvml.list_gpus(Library(refused))[0] == nvml.Gpu(name="NVIDIA L4")
    assert nvml.list_gpus(Library({"nvmlDeviceGetName": 15})) == ()
