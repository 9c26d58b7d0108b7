"""`espalier-agent serve`: what a host asks of this board over one connection. Nothing outlives the connection."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from devices.agent_cache import Cache, remove, write_piece
from devices.agent_errors import error_content
from devices.agent_frames import CHUNK_BYTES
from devices.agent_job import (
    FORMAT,
    IN_FOLDER,
    JOB_FILE,
    OUT_FOLDER,
    RESULT_FILE,
    require_input_name,
    require_inside,
)
from devices.agent_link import Link, LinkLostError
from devices.agent_lock import Session, remove_all
from devices.agent_process import adopt_orphans, kill_descendants
from devices.agent_run import run_job
from devices.errors import EXIT_INTERNAL, EXIT_OK, BundleError, EspalierError
from devices.files import digest_value, read_json, storage_errors, write_json

_ASK_AGAIN_S = 0.5


def serve(session: Session, who: str) -> int:
    """Answer one host until it says goodbye or the connection ends. Returns the exit code."""
    adopt_orphans()
    link = Link()
    try:
        link.send({"hello": _facts(session.cache)})
        while (frame := link.next()) is not None:
            header, _ = frame
            if header.get("op") == "bye":
                return EXIT_OK
            _answer(link, session, who, header)
    except LinkLostError:
        return EXIT_INTERNAL
    finally:
        kill_descendants()
    return EXIT_OK


def _answer(link: Link, session: Session, who: str, header: dict[str, Any]) -> None:
    number = header.get("id")
    try:
        answer = _operation(header)(link, session, who, header)
    except LinkLostError:
        raise
    # Whatever it is, the host tells its user.
    except Exception as error:  # noqa: BLE001
        link.send({"id": number, "error": error_content(error)})
    else:
        link.send({"id": number, "ok": answer})


_Operation = Callable[[Link, Session, str, "dict[str, Any]"], "dict[str, Any]"]


def _operation(header: dict[str, Any]) -> _Operation:
    operations: dict[str, _Operation] = {
        "detect": _detect,
        "lock": _lock,
        "unlock": _unlock,
        "held": _held,
        "put": _put,
        "stage": _stage,
        "get": _get,
        "delivered": _delivered,
        "clean": _clean,
    }
    name = str(header.get("op"))
    if name not in operations:
        raise BundleError("message", f"asks for {name!r:.80}, which this agent does not know", "Use a matching agent")
    return operations[name]


def _facts(cache: Cache) -> dict[str, Any]:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return {
        "cache": str(cache.root),
        "free_bytes": cache.free_bytes,
        "time_s": time.time(),
        "boot": boot,
        "python": platform.python_version(),
    }


def _detect(*_: object) -> dict[str, Any]:
    from importlib.util import find_spec

    from devices.detect import detect_host

    host = detect_host()
    # Whether it is there; only its use says whether it loads.
    libraries = [name for name in ("onnxruntime", "tensorrt", "tensorrt_rtx") if find_spec(name)]
    return {"host": host.as_dict(), "fingerprint": host.fingerprint, "libraries": libraries, "time_s": time.time()}


def _lock(link: Link, session: Session, who: str, header: dict[str, Any]) -> dict[str, Any]:
    holder = session.try_measure(who)
    told: str | None = None
    while holder is not None:
        if holder != told:
            link.send({"id": header["id"], "waiting": holder})
            told = holder
        if link.next(_ASK_AGAIN_S) is not None:
            # The host only waits while it waits.
            raise LinkLostError
        holder = session.try_measure(who)
    return {}


def _unlock(_: Link, session: Session, __: str, ___: dict[str, Any]) -> dict[str, Any]:
    session.stop_measuring()
    return {}


def _held(_: Link, session: Session, __: str, header: dict[str, Any]) -> dict[str, Any]:
    _require_place(session)
    held = {digest: session.cache.held_bytes(digest, size) for digest, size in header["sizes"].items()}
    return {"held": held, "free_bytes": session.cache.free_bytes}


def _put(link: Link, session: Session, _: str, header: dict[str, Any]) -> dict[str, Any]:
    """Pieces follow until one says that it is the end. After a failure they are let pass, and the host is told."""
    failure: EspalierError | None = None
    try:
        _require_place(session)
        with session.cache.appending(header["digest"], header["offset"]) as handle:
            while (piece := _piece(link)) is not None:
                write_piece(session.cache, handle, piece)
    except EspalierError as error:
        failure = error
        link.send({"id": header["id"], "stop": True})
        while _piece(link) is not None:
            continue
    if failure is not None:
        raise failure
    return {"whole": session.cache.finish(header["digest"])}


def _piece(link: Link) -> bytes | None:
    header, payload = link.next()
    return None if header.get("end") else payload


def _stage(link: Link, session: Session, _: str, header: dict[str, Any]) -> dict[str, Any]:
    _require_place(session)
    cache, content = session.cache, header["job"]
    from devices.detect import detect_host

    # A result counts for the same job, by the same agent, on a board that has not changed since.
    digest = digest_value({"job": content, "agent": Path(sys.argv[0]).name, "host": detect_host().fingerprint})
    folder, scratch = cache.job(digest), cache.root / "tmp" / digest
    reused = (folder / RESULT_FILE).is_file()
    if not reused:
        with storage_errors(cache.root):
            remove(folder)
            remove(scratch)
            scratch.mkdir(mode=0o700)
        try:
            _lay_out(cache, folder, content)
            run_job(link, folder, scratch, header["limit_s"], {"id": header["id"]})
        except BaseException:
            remove(folder)
            raise
        finally:
            remove(scratch)
            remove(folder / IN_FOLDER)
    return {"job": digest, "reused": reused, "result": read_json(folder / RESULT_FILE, BundleError)}


def _lay_out(cache: Cache, folder: Path, content: dict[str, Any]) -> None:
    """The job's folder, its inputs linked to the contents that were sent."""
    inputs = {}
    with storage_errors(cache.root):
        for name, files in content["inputs"].items():
            inputs[name] = f"{IN_FOLDER}/{require_input_name(name, 'job: inputs')}"
            (folder / inputs[name]).mkdir(parents=True)
            for path, (digest, _) in files.items():
                target = folder / inputs[name] / require_inside(path, f"job: inputs: {name}")
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(cache.blob(digest), target)
    kept = {"kept": str(cache.root / "kept")}
    write_json(folder / JOB_FILE, {**content, **kept, "inputs": inputs, "format": FORMAT})


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except PermissionError:
        # A file system without links, such as that of a memory card from a camera.
        shutil.copyfile(source, target)


def _get(link: Link, session: Session, _: str, header: dict[str, Any]) -> dict[str, Any]:
    """A file of a job's result, from `offset` on."""
    name = require_inside(header["path"], "message: path")
    path = session.cache.job(header["job"]) / OUT_FOLDER / name
    with open(path, "rb") as stream:
        stream.seek(header["offset"])
        while piece := stream.read(CHUNK_BYTES):
            link.send({"id": header["id"], "piece": True}, piece)
    return {}


def _delivered(_: Link, session: Session, __: str, header: dict[str, Any]) -> dict[str, Any]:
    remove(session.cache.job(header["job"]))
    return {}


def _clean(_: Link, session: Session, __: str, ___: dict[str, Any]) -> dict[str, Any]:
    return remove_all(session)


def _require_place(session: Session) -> None:
    if not session.measures:
        raise BundleError("message", "asks for work without the board's lock", "Use a matching agent")
