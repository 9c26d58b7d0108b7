"""Whether a fault is that the machine has no memory left, which is the user's to mend."""

from __future__ import annotations

import errno
import re

from devices.errors import DeviceError, EspalierError

# Of the loader of libraries, the C library, ONNX Runtime and PyTorch, on a CPU and on a GPU.
_WORDS = re.compile(
    r"failed to map segment|cannot allocate memory|can't allocate memory|bad[ _]alloc|failed to allocate memory|"
    r"out of memory",
    re.IGNORECASE,
)


def memory_fault(error: BaseException) -> DeviceError | None:
    """What to say of a fault that is for want of memory; None of any other, and of what says already what it is."""
    if isinstance(error, EspalierError):
        return None
    out = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    if not out and not _WORDS.search(str(error)):
        return None
    shown = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")[:200]
    fix = "Close other programs, or use smaller batches"
    if "failed to map segment" in shown:
        fix += "; a folder that is mounted noexec says the same"
    return DeviceError("memory", f"too little is free ({shown})", fix)
