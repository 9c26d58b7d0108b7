"""TensorRT's timing cache on disk: what kernels took in earlier builds, so that the next one is fast and alike."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from devices.files import storage_errors, write_atomic


def cache_path(folder: Path, version: str, compute_capability: str) -> Path:
    """The cache's file of one library version and GPU: the times of another would be refused."""
    name = re.sub(r"[^\w.]+", "-", f"timing-{version}-{compute_capability or 'gpu'}")
    return folder / f"{name}.cache"


def attach(config: Any, path: Path) -> Any:
    """Give the build the kept times, or an empty cache where there are none that fit. Returns the cache."""
    with _locked(path, fcntl.LOCK_SH):
        kept = path.read_bytes() if path.exists() else b""
    cache = config.create_timing_cache(kept)
    if kept and (cache is None or not config.set_timing_cache(cache, False)):
        kept, cache = b"", None
    if not kept:
        cache = config.create_timing_cache(b"") if cache is None else cache
        config.set_timing_cache(cache, False)
    return cache


def keep(config: Any, path: Path) -> None:
    """Write the build's times, with those that another build wrote in the meantime."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    with _locked(path, fcntl.LOCK_EX):
        if path.exists():
            others = config.create_timing_cache(path.read_bytes())
            if others is not None:
                cache.combine(others, False)
        write_atomic(path, bytes(cache.serialize()))


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[None]:
    """Two builds at once would each lose what the other found. The system lets go of it when a process dies."""
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, kind)
        yield
    finally:
        os.close(handle)
