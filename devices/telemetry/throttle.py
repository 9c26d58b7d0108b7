"""What the system itself says of slowing down: cooling devices, over-current events, and x86's own counters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from devices.telemetry.channel import FileNumber, Found, Reading, find, numbered, read_text

# A fan that turns is no sign of slowing down, and an idle state injected is; displays and chargers are neither.
_SLOWING = ("throttle", "alert", "cpufreq", "devfreq", "processor", "intel_powerclamp", "gv11b", "ga10b")


def throttle_channels(root: Path) -> Found:
    """`throttle.NAME`: a state that is 0 unless the device is slowed, or a count that rises when it is."""
    return find([*_cooling(root), *_over_current(root), *_x86(root)])


def _cooling(root: Path) -> Iterator[tuple[str, str, Callable[[], Reading]]]:
    seen: set[str] = set()
    for folder in numbered(root / "sys/class/thermal", "cooling_device*"):
        kind = (read_text(folder / "type") or "").lower()
        if not any(word in kind for word in _SLOWING):
            continue
        if kind == "processor":
            # One a CPU, all alike.
            if "processor" in seen:
                continue
        elif kind in seen:
            kind = f"{kind}-{folder.name.removeprefix('cooling_device')}"
        seen.add(kind)
        yield f"throttle.{kind}", "state", partial(FileNumber, folder / "cur_state")


def _over_current(root: Path) -> Iterator[tuple[str, str, Callable[[], Reading]]]:
    """Tegra's over-current alarms, which cut the clocks at once."""
    for folder in numbered(root / "sys/class/hwmon", "hwmon*"):
        if (read_text(folder / "name") or "").startswith("soctherm"):
            for counter in numbered(folder, "oc*_event_cnt"):
                name = counter.name.removesuffix("_event_cnt")
                yield f"throttle.over-current-{name}", "count", partial(FileNumber, counter)


def _x86(root: Path) -> Iterator[tuple[str, str, Callable[[], Reading]]]:
    folder = root / "sys/devices/system/cpu/cpu0/thermal_throttle"
    for name in ("package_throttle_count", "core_throttle_count"):
        if (folder / name).exists():
            yield f"throttle.{name.removesuffix('_count')}", "count", partial(FileNumber, folder / name)
