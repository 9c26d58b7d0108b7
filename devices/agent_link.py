"""The board's end of a connection: messages in order, signs of life answered, and its end noticed at once."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import sys
import threading
from collections.abc import Mapping
from typing import Any

from devices.agent_frames import FrameError, read_frame, write_frame
from devices.agent_process import kill_descendants
from devices.errors import EXIT_INTERNAL

SILENCE_S = 30.0
"""The host sends signs of life more often; after so long without any, the connection counts as lost."""
_TO_END_S = 5.0


class LinkLostError(Exception):
    """Nobody is at the other end any more."""


class Line(str):
    """A line that a running job wrote; "" when it writes no more."""


Item = "tuple[dict[str, Any], bytes] | Line"


class Link:
    """Messages over standard input and output. What else writes to standard output writes to standard error."""

    def __init__(self) -> None:
        self._input = os.fdopen(os.dup(0), "rb", buffering=0)
        self._output = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        self._writing = threading.Lock()
        self._items: queue.Queue[Any] = queue.Queue(maxsize=8)
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, header: Mapping[str, object], payload: bytes = b"") -> None:
        """Send one message. Raises `LinkLostError`."""
        try:
            with self._writing:
                write_frame(self._output, header, payload)
        except OSError as cause:
            raise LinkLostError from cause

    def next(self, timeout_s: float | None = None) -> Any:
        """The next message as (header, payload), or `Line` of a running job; None when none came in time.

        Raises `LinkLostError` when the connection has ended.
        """
        try:
            item = self._items.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if item is None:
            raise LinkLostError
        return item

    def put_line(self, line: str) -> None:
        """Put a line of a running job in the row."""
        self._items.put(Line(line))

    def _listen(self) -> None:
        stream = _Patient(self._input)
        while (frame := _next_frame(stream)) is not None:
            if frame[0].get("op") == "ping":
                # Here, because the rest may be busy with a large file.
                with contextlib.suppress(LinkLostError):
                    self.send({"pong": True})
                continue
            self._items.put(frame)
        # What came before is finished in peace, as far as it goes in that time: the start of a file is worth keeping.
        timer = threading.Timer(_TO_END_S, _end)
        timer.daemon = True
        timer.start()
        self._items.put(None)


class _Patient:
    """A stream that ends when nothing has come for too long: a cable that was pulled says nothing."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def read(self, size: int) -> bytes:
        parts = []
        while size:
            ready, _, _ = select.select([self._stream], [], [], SILENCE_S)
            part = self._stream.read(min(size, 1 << 16)) if ready else b""
            if not part:
                break
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _next_frame(stream: Any) -> tuple[dict[str, Any], bytes] | None:
    try:
        return read_frame(stream)
    except (FrameError, OSError):
        return None


def _end() -> None:
    kill_descendants()
    os._exit(EXIT_INTERNAL)
