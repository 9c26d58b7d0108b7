"""Messages between host and board: the lengths of a JSON header and of the bytes behind it, then both."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

CHUNK_BYTES = 1 << 18
"""Bytes of a file in one message."""
_LENGTHS = struct.Struct(">II")
_MAX_HEADER_BYTES = 64 << 20
_MAX_PAYLOAD_BYTES = 4 << 20


class FrameError(Exception):
    """What came is no message."""


def write_frame(stream: BinaryIO, header: Mapping[str, object], payload: bytes = b"") -> None:
    """Write one message and flush it. Raises `OSError` when nobody reads any more."""
    text = json.dumps(header, allow_nan=False).encode()
    stream.write(_LENGTHS.pack(len(text), len(payload)) + text + payload)
    stream.flush()


def read_frame(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """The next message; None where the stream ends, in the middle of one too. Raises `FrameError`."""
    lengths = stream.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    header_bytes, payload_bytes = _LENGTHS.unpack(lengths)
    if header_bytes > _MAX_HEADER_BYTES or payload_bytes > _MAX_PAYLOAD_BYTES:
        raise FrameError(f"a message of {header_bytes} and {payload_bytes} bytes")
    text, payload = stream.read(header_bytes), stream.read(payload_bytes)
    if len(text) < header_bytes or len(payload) < payload_bytes:
        return None
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as cause:
        raise FrameError(str(cause)) from cause
    if not isinstance(header, dict):
        raise FrameError("a message that is no table")
    return header, payload
