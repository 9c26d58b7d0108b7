"""Clocks of processor, GPU and memory, who governs them, and what caps them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from devices.telemetry.channel import FileNumber, Found, Reading, find, numbered, read_number, read_text

_GPU = re.compile(r"gpu|ga10b|gv11b|gp10b|gm20b")
_MOST_POLICIES = 8
_LOCKED_WITHIN = 0.005


@dataclass(frozen=True)
class ClockLimits:
    """How a clock is governed now."""

    name: str
    governor: str | None
    least_mhz: float | None
    most_mhz: float | None
    """It is not let above this."""
    highest_mhz: float | None
    """What the hardware offers."""

    @property
    def is_locked(self) -> bool | None:
        """Whether it cannot move, as after `jetson_clocks`; None where that is not known."""
        if self.least_mhz is None or self.most_mhz is None:
            return None
        return self.most_mhz - self.least_mhz <= _LOCKED_WITHIN * self.most_mhz

    @property
    def is_capped(self) -> bool:
        """Whether it is kept below what the hardware offers."""
        if self.most_mhz is None or self.highest_mhz is None:
            return False
        return self.most_mhz < (1 - _LOCKED_WITHIN) * self.highest_mhz


def clock_channels(root: Path, cpus: tuple[int, ...] = ()) -> Found:
    """`clock.cpuN`, `clock.gpu` and `clock.memory` in MHz. CPUs: those given, or the first of each group."""
    return find(_clocks(root, cpus))


def clock_limits(root: Path, cpus: tuple[int, ...] = ()) -> tuple[ClockLimits, ...]:
    """Governor and limits of every clock that tells them."""
    limits = []
    for folder, cpu in _policies(root, cpus):
        limits.append(
            ClockLimits(
                f"clock.cpu{cpu}",
                read_text(folder / "scaling_governor"),
                read_number(folder / "scaling_min_freq", 1e-3),
                read_number(folder / "scaling_max_freq", 1e-3),
                read_number(folder / "cpuinfo_max_freq", 1e-3),
            )
        )
    for folder, name in _gpus(root):
        offered = [float(text) * 1e-6 for text in (read_text(folder / "available_frequencies") or "").split()]
        limits.append(
            ClockLimits(
                name,
                read_text(folder / "governor"),
                read_number(folder / "min_freq", 1e-6),
                read_number(folder / "max_freq", 1e-6),
                max(offered, default=None),
            )
        )
    return tuple(limits)


def _clocks(root: Path, cpus: tuple[int, ...]) -> Iterator[tuple[str, str, Callable[[], Reading]]]:
    for folder, cpu in _policies(root, cpus):
        yield f"clock.cpu{cpu}", "MHz", partial(FileNumber, folder / "scaling_cur_freq", 1e-3)
    for folder, name in _gpus(root):
        yield name, "MHz", partial(FileNumber, folder / "cur_freq", 1e-6)
    memory = root / "sys/kernel/debug/bpmp/debug/clk/emc/rate"
    if (root / "sys/class/devfreq").is_dir():
        yield "clock.memory", "MHz", partial(FileNumber, memory, 1e-6)


def _policies(root: Path, cpus: tuple[int, ...]) -> Iterator[tuple[Path, int]]:
    """CPUs that share a clock are one policy; reading one wakes its CPU, so not all of a server's."""
    shown = 0
    for folder in numbered(root / "sys/devices/system/cpu/cpufreq", "policy*"):
        members = [int(text) for text in (read_text(folder / "affected_cpus") or "").split() if text.isdecimal()]
        wanted = [cpu for cpu in members if cpu in cpus] if cpus else members
        if wanted and shown < _MOST_POLICIES:
            shown += 1
            yield folder, wanted[0]


def _gpus(root: Path) -> Iterator[tuple[Path, str]]:
    folder = root / "sys/class/devfreq"
    found = [path for path in sorted(folder.iterdir()) if _GPU.search(path.name)] if folder.is_dir() else []
    for path in found:
        # Thor has two: `gpu-gpc-0` and `gpu-nvd-0`.
        yield path, "clock.gpu" if len(found) == 1 else f"clock.{path.name}"
