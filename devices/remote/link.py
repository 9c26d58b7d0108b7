"""The host's end of a connection to a board: the agent put there and started, messages, and signs of life."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import platform
import queue
import secrets
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from typing import Any, BinaryIO, cast

from devices.agent_bootstrap import ANNOUNCEMENT
from devices.agent_errors import error_of
from devices.agent_frames import FrameError, read_frame, write_frame
from devices.agent_link import SILENCE_S
from devices.errors import DeviceError
from devices.files import digest_bytes
from devices.fleet import BoardConfig
from devices.remote.ssh import LostError, end_command, explain, ssh_command

_PING_S = 5.0
_TO_END_S = 5.0
_END_HUNG_S = 20.0
_NOISE_LINES = 40
_LONGEST_LINE = 1 << 20
_AGAIN = "Run the same command again: it goes on from there"

Event = Callable[[Mapping[str, Any]], None]
"""Told what a request says before its answer."""


class Link:
    """One connection to a board, with the agent at its other end."""

    def __init__(self, board: BoardConfig, agent: bytes) -> None:
        """Connect and start the agent. Raises `DeviceError`, `LostError` where it may pass, `StorageError`."""
        self.board = board
        self.where = f"board '{board.name}'"
        self.moved_bytes = 0
        self._number = 0
        self._heard_s = time.monotonic()
        self._words: deque[str] = deque(maxlen=_NOISE_LINES)
        self._items: queue.Queue[Any] = queue.Queue()
        self._writing = threading.Lock()
        self._closed = threading.Event()
        self._mark = f"espalier-{secrets.token_hex(8)}"
        self._process = subprocess.Popen(
            ssh_command(board, self._mark),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Ctrl-C is for us: we tell the board.
            start_new_session=True,
        )
        self._input = cast(BinaryIO, self._process.stdin)
        self._output = cast(BinaryIO, self._process.stdout)
        self._threads = [
            threading.Thread(target=target, daemon=True) for target in (self._listen, self._keep_words, self._beat)
        ]
        self._threads[0].start()
        self._threads[1].start()
        try:
            self.facts = self._start(agent)
            self.offset_s = float(self.facts["time_s"]) - time.time()
            """By how much the board's clock is ahead of this machine's, but for the way between them."""
            self._threads[2].start()
        except BaseException:
            self.close()
            raise

    def request(
        self, operation: str, content: Mapping[str, object] | None = None, event: Event | None = None
    ) -> dict[str, Any]:
        """The answer to a request. Raises the board's error, `LostError` when the connection ends."""
        number = self.begin(operation, content or {})
        answer: dict[str, Any] = self.answer(number, event)
        return answer

    def begin(self, operation: str, content: Mapping[str, object]) -> int:
        """Send a request; returns its number."""
        self._number += 1
        self.send({"op": operation, "id": self._number, **content})
        return self._number

    def send(self, header: Mapping[str, object], payload: bytes = b"") -> None:
        """Send one message. Raises `LostError`."""
        try:
            with self._writing:
                write_frame(self._input, header, payload)
        except (OSError, ValueError) as cause:
            raise self._lost() from cause
        self.moved_bytes += len(payload)

    def answer(self, number: int, event: Event | None = None, piece: Callable[[bytes], None] | None = None) -> Any:
        """The answer to the request of that number; what comes before goes to `event`, bytes of a file to `piece`."""
        while True:
            header, payload = self._next()
            if header.get("id") != number:
                continue
            if "ok" in header:
                return header["ok"]
            if "error" in header:
                raise error_of(header["error"], self.where)
            if header.get("piece") and piece:
                self.moved_bytes += len(payload)
                piece(payload)
            elif event:
                event(header)

    def said_stop(self, number: int) -> bool:
        """Whether the board wants no more of what is being sent. Looks, and does not wait."""
        with self._items.mutex:
            return any(item and item[0].get("id") == number and "stop" in item[0] for item in self._items.queue)

    def close(self) -> None:
        """End the connection, and with it all that runs on the board for it."""
        self._closed.set()
        with contextlib.suppress(OSError, ValueError):
            self._input.close()
        try:
            self._process.wait(_TO_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout=1)
        for stream in (self._output, self._process.stderr):
            if stream is not None:
                stream.close()

    def _start(self, agent: bytes) -> dict[str, Any]:
        """From the login shell to the agent's first words."""
        code = (files("devices") / "agent_bootstrap.py").read_text(encoding="utf-8")
        settings = {
            "cache": self.board.cache,
            "digest": digest_bytes(agent),
            "size_bytes": len(agent),
            "who": f"{_user()}@{platform.node()}",
            "mark": self._mark,
        }
        self._write(json.dumps([code, settings]).encode() + b"\n")
        until = time.monotonic() + self.board.start_s
        said = self._first(until)
        if "send" in said:
            self._write(agent)
            said = self._first(until)
        if "error" in said:
            raise error_of(said["error"], self.where)
        hello = said.get("hello")
        if not isinstance(hello, dict):
            raise DeviceError(self.where, "something else than the agent answers", "Check `python` in fleet.toml")
        return hello

    def _first(self, until: float) -> dict[str, Any]:
        try:
            item = self._items.get(timeout=max(until - time.monotonic(), 0.0))
        except queue.Empty:
            self._process.kill()
            self._end_hung()
            shown = f"; the last it said: {self._words[-1]}" if self._words else ""
            what = f"the agent did not start within {self.board.start_s:g} s{shown}"
            fix = "Try its `python` by hand there, or raise start_s in fleet.toml"
            raise LostError(self.where, what, fix) from None
        if item is None:
            raise self._ended_early()
        header: dict[str, Any] = item[0]
        return header

    def _end_hung(self) -> None:
        """End what hangs on the board, by another connection. Where that fails too, it was the connection that hung."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            command = end_command(self.board, self._mark)
            # Neither what is typed here nor Ctrl-C is for it.
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                start_new_session=True,
                timeout=_END_HUNG_S,
                check=False,
            )

    def _write(self, content: bytes) -> None:
        # When it has ended, reading says why.
        with contextlib.suppress(OSError):
            self._input.write(content)
            self._input.flush()

    def _next(self) -> tuple[dict[str, Any], bytes]:
        item = self._items.get()
        if item is None:
            # For whoever asks next.
            self._items.put(None)
            raise self._lost()
        found: tuple[dict[str, Any], bytes] = item
        return found

    def _lost(self) -> LostError:
        """What is said of a connection that ended while it was in use."""
        silent_s = time.monotonic() - self._heard_s
        why = f"nothing came for {silent_s:.0f} s" if silent_s > SILENCE_S else self._last_words()
        return LostError(self.where, f"the connection was lost ({why})", _AGAIN)

    def _ended_early(self) -> DeviceError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_TO_END_S)
        self._threads[1].join(timeout=1)
        code = self._process.returncode
        return explain(self.board, 255 if code is None else code, "\n".join(self._words))

    def _last_words(self) -> str:
        self._threads[1].join(timeout=0.2)
        return next((line for line in reversed(self._words) if line.strip()), "it ended without a message")

    def _listen(self) -> None:
        try:
            for said in _announcements(self._output, self._words):
                self._items.put((said, b""))
            while (frame := read_frame(self._output)) is not None:
                self._heard_s = time.monotonic()
                if "pong" not in frame[0]:
                    self._items.put(frame)
        except (FrameError, OSError, ValueError):
            self._process.kill()
        self._items.put(None)

    def _keep_words(self) -> None:
        assert self._process.stderr is not None
        with contextlib.suppress(OSError, ValueError):
            for line in self._process.stderr:
                self._words.append(line.decode(errors="replace").rstrip()[:2000])

    def _beat(self) -> None:
        """Signs of life, and an end for a connection that gives none: a write to it could wait for hours."""
        self._heard_s = time.monotonic()
        while not self._closed.wait(_PING_S):
            if time.monotonic() - self._heard_s > SILENCE_S:
                self._process.kill()
                return
            # Whoever is writing gives a sign of life by that.
            if self._writing.acquire(blocking=False):
                try:
                    write_frame(self._input, {"op": "ping"})
                except (OSError, ValueError):
                    return
                finally:
                    self._writing.release()


def _announcements(stream: Any, words: deque[str]) -> Iterator[dict[str, Any]]:
    """What the loader says, up to the agent's start. A login shell may write whatever it likes between."""
    while line := stream.readline(_LONGEST_LINE):
        if not line.startswith(ANNOUNCEMENT):
            words.append(line.decode(errors="replace").rstrip()[:2000])
            continue
        said = json.loads(line[len(ANNOUNCEMENT) :])
        if "ready" in said:
            return
        yield said


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
