"""The first thing that runs on a board: it makes the cache folder, puts the agent there and becomes it.

Its text travels as it is, so it needs the standard library only, and nothing of this package.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import sys
import tempfile
from pathlib import Path

MARKER_FILE = "espalier-cache"
ANNOUNCEMENT = b"espalier-board "
_MARKER_TEXT = "A cache of Espalier. `espalier-agent clean` removes this folder.\n"
_OTHER_FOLDER = "Choose a folder that does not exist yet"


class CacheRefusedError(Exception):
    """A folder that is not taken as the cache: where, what is wrong, what to do."""


def prepare_cache(place: str) -> Path:
    """The cache folder, made where there is none: of this user, mode 0700, marked as ours.

    A folder that holds anything and no marker is somebody's: it is refused, because `clean` removes all that is in it.
    Raises `CacheRefusedError`, and `OSError` when it cannot be made.
    """
    root = Path(os.path.expandvars(place)).expanduser()
    if not root.is_absolute():
        raise CacheRefusedError(str(root), "is not a path from the root or from ~", "Write it in full")
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = os.lstat(root)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise CacheRefusedError(str(root), "is a link, or belongs to another user", _OTHER_FOLDER)
    marker = root / MARKER_FILE
    if not marker.is_file():
        if any(root.iterdir()):
            raise CacheRefusedError(str(root), "holds files and is not a cache of Espalier", _OTHER_FOLDER)
        marker.write_text(_MARKER_TEXT)
    os.chmod(root, 0o700)
    for name in ("agents", "blobs", "jobs", "tmp"):
        (root / name).mkdir(exist_ok=True, mode=0o700)
    return root


def agent_file(cache: Path, digest: str) -> Path:
    """Where an agent of that digest lies."""
    return cache / "agents" / f"{digest}.pyz"


def start(settings: dict[str, str]) -> None:
    """Fetch the agent unless it is here, and become it. Everything said is one JSON line behind `ANNOUNCEMENT`."""
    try:
        cache = prepare_cache(settings["cache"])
        agent = agent_file(cache, settings["digest"])
        if not agent.is_file() or _digest(agent.read_bytes()) != settings["digest"]:
            _announce({"send": settings["digest"]})
            _receive(agent, int(settings["size_bytes"]), settings["digest"])
        os.utime(agent)
    except CacheRefusedError as error:
        where, what, fix = error.args
        _refuse("StorageError", where, what, fix)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = "the disk is full" if full else f"cannot write here ({error.strerror})"
        fix = "Free some space there" if full else "Choose another cache folder"
        _refuse("StorageError", settings["cache"], what, fix)
    _announce({"ready": settings["digest"]})
    # Python keeps options that it does not know for whoever asks: here only for who looks for this process.
    python = [sys.executable, "-X", settings["mark"]]
    command = [*python, str(agent), "serve", "--cache", str(cache), "--who", settings["who"]]
    # Nothing may stay behind beside the modules of others.
    os.execve(sys.executable, command, os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})


def _receive(target: Path, size_bytes: int, digest: str) -> None:
    content = sys.stdin.buffer.read(size_bytes)
    if _digest(content) != digest:
        # The connection ended: nobody is there to be told.
        sys.exit(1)
    handle, name = tempfile.mkstemp(dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.replace(name, target)
    except OSError:
        os.unlink(name)
        raise


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _announce(message: dict[str, object]) -> None:
    # On a line of its own, whatever the login shell wrote before.
    sys.stdout.buffer.write(b"\n" + ANNOUNCEMENT + json.dumps(message).encode() + b"\n")
    sys.stdout.buffer.flush()


def _refuse(kind: str, where: str, what: str, fix: str) -> None:
    _announce({"error": {"kind": kind, "where": where, "what": what, "fix": fix}})
    sys.exit(1)
