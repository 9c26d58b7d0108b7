"""Whether an ONNX file keeps weights in other files: told from its bytes, before any runtime parses them.

A runtime that is given bytes looks for such files in the current folder, and nobody has verified what lies there.
Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto; https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator

from devices.errors import BundleError, DeviceError

# Of each message that can hold a tensor at any depth: what its fields are.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_WIDTHS = {1: 8, 5: 4}


def require_self_contained(content: bytes, where: str) -> None:
    """Raise `BundleError` for an ONNX file with weights in other files, `DeviceError` for bytes that are no message."""
    waiting = [("model", memoryview(content))]
    try:
        while waiting:
            kind, message = waiting.pop()
            for number, value in _fields_of(message):
                if kind == "tensor":
                    # A location of 0 is what stands here without one.
                    if number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0):
                        what = "keeps weights in other files, which the bundle does not vouch for"
                        raise BundleError(where, what, "Do not use it; build the engine again")
                elif number in _FIELDS[kind] and isinstance(value, memoryview):
                    waiting.append((_FIELDS[kind][number], value))
    except (IndexError, ValueError) as cause:
        raise DeviceError(where, "is no ONNX file", "Build the engine again") from cause


def _fields_of(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field. Raises `ValueError` or `IndexError` for what is no message."""
    place = 0
    while place < len(message):
        key, place = _number(message, place)
        if key >> 32:
            # Protocol buffers drop these bits, and would read another field than is looked at here.
            raise ValueError("a key of more than 32 bits")
        wire = key & 7
        if wire == 0:
            value, place = _number(message, place)
            yield key >> 3, value
            continue
        if wire == 2:
            size, place = _number(message, place)
        elif wire in _WIDTHS:
            size = _WIDTHS[wire]
        else:
            raise ValueError(f"wire type {wire}")
        if size > len(message) - place:
            raise ValueError("a field is cut short")
        if wire == 2:
            yield key >> 3, message[place : place + size]
        place += size


def _number(message: memoryview, place: int) -> tuple[int, int]:
    """A varint of at most 64 bits, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, place
    raise ValueError("a number of more than 64 bits")
