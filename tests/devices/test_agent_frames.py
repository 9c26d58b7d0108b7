"""Messages between host and board: whole or not at all."""

from __future__ import annotations

import io
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.agent_frames import FrameError, read_frame, write_frame

HEADERS = st.dictionaries(st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))


@given(st.lists(st.tuples(HEADERS, st.binary()), max_size=4))
def test_messages_come_as_they_went(messages: list[tuple[dict[str, Any], bytes]]) -> None:
    stream = io.BytesIO()
    for header, payload in messages:
        write_frame(stream, header, payload)
    stream.seek(0)
    assert [read_frame(stream) for _ in messages] == messages
    assert read_frame(stream) is None


@given(HEADERS, st.binary(), st.data())
def test_a_message_that_was_cut_off_is_none(header: dict[str, Any], payload: bytes, data: Any) -> None:
    stream = io.BytesIO()
    write_frame(stream, header, payload)
    whole = stream.getvalue()
    length = data.draw(st.integers(0, len(whole) - 1))
    assert read_frame(io.BytesIO(whole[:length])) is None


@pytest.mark.parametrize(
    "content",
    [
        struct.pack(">II", 1 << 30, 0),
        struct.pack(">II", 2, 1 << 30) + b"{}",
        struct.pack(">II", 2, 0) + b"[]",
        struct.pack(">II", 2, 0) + b"{!",
        b"Welcome to the board!",
    ],
)
def test_what_is_no_message_is_refused(content: bytes) -> None:
    with pytest.raises(FrameError):
        read_frame(io.BytesIO(content))
