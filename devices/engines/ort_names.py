"""Names of nodes in a graph that ONNX Runtime wrote, made the same in every build.

Where it turns its blocked layout back, it numbers the new nodes in the order of their addresses in memory: two builds
of one graph differ in nothing but these names. A board has no onnx, so the file is read as what it is, protocol buffers
(https://protobuf.dev/programming-guides/encoding): a row of keys, each followed by a number or by a length and so many
bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

_REORDERS = (b"ReorderInput", b"ReorderOutput")
_LENGTH = 2
# Fields of ModelProto, GraphProto and NodeProto (onnx.proto3).
_GRAPH, _NODE = 7, 1
_OUTPUT, _NAME, _TYPE = 2, 3, 4
_FIXED_BYTES = {1: 8, 5: 4}


def settle_names(model: bytes) -> bytes:
    """The model with every reordering node named after its output. Raises `ValueError` for what is no model."""
    return _replaced(model, _GRAPH, lambda graph: _replaced(graph, _NODE, _settled))


def _settled(node: bytes) -> bytes:
    fields = {number: node[start:end] for number, _, start, end in _fields(node)}
    if fields.get(_TYPE) not in _REORDERS:
        return node
    output = next(node[start:end] for number, _, start, end in _fields(node) if number == _OUTPUT)
    return _replaced(node, _NAME, lambda _: fields[_TYPE] + b"_" + output)


def _replaced(message: bytes, number: int, change: Callable[[bytes], bytes]) -> bytes:
    """The message with this field's every value changed; all else stays, byte by byte."""
    parts = []
    for found, begin, start, end in _fields(message):
        if found == number:
            value = change(message[start:end])
            parts += [_varint(found << 3 | _LENGTH), _varint(len(value)), value]
        else:
            parts.append(message[begin:end])
    return b"".join(parts)


def _fields(message: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Number of each field, where its key begins, and where its value does and ends."""
    at = 0
    while at < len(message):
        begin = at
        key, at = _read_varint(message, at)
        kind = key & 7
        if kind == _LENGTH:
            length, at = _read_varint(message, at)
            end = at + length
        elif kind == 0:
            _, end = _read_varint(message, at)
        elif kind in _FIXED_BYTES:
            end = at + _FIXED_BYTES[kind]
        else:
            raise ValueError(f"no field begins at byte {begin}")
        if end > len(message):
            raise ValueError(f"the field at byte {begin} is cut off")
        yield key >> 3, begin, at, end
        at = end


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("it ends within a number")


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
