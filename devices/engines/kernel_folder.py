"""Where the kernels that TensorRT-RTX compiled are kept: a folder that nobody else writes to, a file an engine."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from devices.errors import StorageError
from devices.files import digest_bytes, storage_errors

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def kernels_path(folder: Path, content: bytes) -> Path:
    """The file of this engine's kernels; the folder is made where there is none, mode 0700.

    Kernels are programs that no signature covers. So raises `StorageError` when others own the folder or may write to
    it, as well as when this user may not.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.stat()
    if found.st_uid != os.geteuid() or found.st_mode & _OTHERS:
        what = "belongs to another user, or others may write to it: what is kept there is code that runs on the GPU"
        raise StorageError(str(folder), what, "Name a folder of your own, of mode 0700")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(str(folder), "is not writable", "Name another folder for kernels, or leave it out")
    return folder / f"{digest_bytes(content)[:32]}.kernels"
