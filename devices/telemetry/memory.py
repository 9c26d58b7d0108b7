"""Memory at its highest: of this process, and of the GPUs."""

from __future__ import annotations

import re
from pathlib import Path

from devices.telemetry.series import Series


def memory_in_use(series: Series) -> dict[str, object]:
    """Peak of this process (kernel's VmHWM), and of each GPU in all, before and at the most; MB are 10^6 bytes."""
    gpus = {
        name.removeprefix("memory."): {"before_mb": float(values[0]), "most_mb": float(values.max())}
        for name, values in series.of_kind("memory").items()
    }
    return {"process_peak_bytes": process_peak_bytes(), "gpus": gpus}


def process_peak_bytes() -> int | None:
    """Highest resident memory of this process so far; None where the kernel does not tell."""
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None
