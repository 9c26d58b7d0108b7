"""Energy counters of the processor (RAPL), through the kernel's powercap tree.

Kernel documentation, power/powercap: `energy_uj` counts up and wraps at `max_energy_range_uj`. Since the attack known
as Platypus (2020) it is readable by root alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from devices.telemetry.channel import FileNumber, Found, Reading, find, numbered, read_number, read_text


class EnergyCounter:
    """Energy since the first reading, in J; what the counter wraps by is added."""

    def __init__(self, path: Path, range_j: float | None) -> None:
        """Raises `OSError` when it cannot be opened."""
        self._counter, self._range_j = FileNumber(path, 1e-6), range_j
        self._before: float | None = None
        self._total = 0.0

    def __call__(self) -> float | None:
        """J, or None where it cannot be read."""
        now = self._counter()
        if now is None:
            return None
        if self._before is not None:
            step = now - self._before
            if step < 0:
                if self._range_j is None:
                    return None
                step += self._range_j
            self._total += step
        self._before = now
        return self._total

    def close(self) -> None:
        """Let go of the file."""
        self._counter.close()


def rapl_channels(root: Path) -> Found:
    """`energy.DOMAIN` in J: packages, memory and the platform. Cores are part of their package."""
    return find(_domains(root))


def _domains(root: Path) -> Iterator[tuple[str, str, Callable[[], Reading]]]:
    for folder in numbered(root / "sys/class/powercap", "intel-rapl:*"):
        name = read_text(folder / "name")
        # `intel-rapl-mmio` shows the packages again; its folders do not match.
        if name is None or not name.startswith(("package", "dram", "psys")):
            continue
        if name == "dram":
            name = f"dram-{folder.name.split(':')[1]}"
        range_j = read_number(folder / "max_energy_range_uj", 1e-6)
        yield f"energy.{name}", "J", partial(EnergyCounter, folder / "energy_uj", range_j)
