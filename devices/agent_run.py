"""Run a job in a process of its own: progress passed on, a time limit, and nothing left running."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from devices.agent_errors import error_of
from devices.agent_link import Line, Link, LinkLostError
from devices.agent_process import kill_descendants, python_command
from devices.errors import DeviceError
from devices.machine_place import HELD_VARIABLE

_CODE = "from devices.agent import main; sys.exit(main(sys.argv[1:]))"
_TO_EXIT_S = 10.0
_KEPT_LINES = 20
_KEPT_CHARACTERS = 2000


def run_job(link: Link, folder: Path, scratch: Path, limit_s: float, told: Mapping[str, object]) -> None:
    """Run the job in `folder` until it has written its result; `told` joins every message to the host.

    What libraries keep goes to `scratch`, and not to the user's folders.

    Raises the job's error, `DeviceError` at the limit or when it is killed, `LinkLostError`.
    """
    # Only a session that holds the machine's place runs jobs.
    held = {HELD_VARIABLE: "1"}
    environment = os.environ | held | {"TMPDIR": str(scratch), "CUDA_CACHE_PATH": str(scratch / "cuda")}
    process = subprocess.Popen(
        python_command(_CODE, "stage", str(folder)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        # A signal for this process is not one for the job, nor the other way.
        start_new_session=True,
    )
    last: deque[str] = deque(maxlen=_KEPT_LINES)
    readers = [
        threading.Thread(target=_pass_on, args=(process.stdout, link), daemon=True),
        threading.Thread(target=_keep, args=(process.stderr, last), daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        said = _follow(link, process, limit_s, told)
        code = process.wait(timeout=_TO_EXIT_S)
    except subprocess.TimeoutExpired:
        code = 0
    finally:
        process.kill()
        process.wait()
        kill_descendants()
    readers[1].join(timeout=1)
    if "error" in said:
        raise error_of(said["error"], "")
    if code != 0:
        raise _failure(code, last)


def _follow(link: Link, process: subprocess.Popen[bytes], limit_s: float, told: Mapping[str, object]) -> dict[str, Any]:
    """What the job said last, that is not progress."""
    until = time.monotonic() + limit_s
    said: dict[str, Any] = {}
    while True:
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise DeviceError("job", f"took longer than its limit of {limit_s:g} s, and was ended", "Raise the limit")
        item = link.next(min(left_s, 1.0))
        if item is None:
            if process.poll() is not None:
                return said
        elif not isinstance(item, Line):
            # The host only waits while a job runs.
            raise LinkLostError
        elif item == "":
            return said
        else:
            content = _content(item)
            if "progress" in content:
                link.send({**told, **content})
            else:
                said |= content


def _content(line: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _pass_on(stream: Any, link: Link) -> None:
    for line in stream:
        link.put_line(line.decode(errors="replace").rstrip("\n") or " ")
    link.put_line("")


def _keep(stream: Any, last: deque[str]) -> None:
    for line in stream:
        last.append(line.decode(errors="replace").rstrip()[:_KEPT_CHARACTERS])


def _failure(code: int, last: deque[str]) -> DeviceError:
    words = next((line for line in reversed(last) if line), "it wrote no message")
    if code < 0:
        return DeviceError("job", f"was killed by signal {-code}: {words}", "A kill can mean that memory ran out")
    return DeviceError("job", f"ended with exit code {code}: {words}")
