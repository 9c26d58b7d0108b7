"""ONNX files that any host writes alike and any runtime of their opset reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from devices.errors import ModelError
from exporters.quiet import first_line

if TYPE_CHECKING:
    import onnx


def portable_bytes(model: onnx.ModelProto) -> bytes:
    """The model as a file: nothing in it of this host, of the tools that wrote it, or of domains that it does not use.

    Changes `model`. Raises `ModelError` when ONNX's checker refuses it.
    """
    import onnx

    for message in _messages(model):
        for field in ("doc_string", "metadata_props"):
            if field in message.DESCRIPTOR.fields_by_name:
                message.ClearField(field)
    used = {message.domain for message in _messages(model) if isinstance(message, onnx.NodeProto)}
    imports = [entry for entry in model.opset_import if entry.domain in used or entry.domain in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend(imports)
    # Runtimes refuse a file format newer than they are, and the opset needs no newer one.
    model.ir_version = onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True)
    content: bytes = model.SerializeToString(deterministic=True)
    try:
        onnx.checker.check_model(content)
    except onnx.checker.ValidationError as cause:
        raise ModelError("export", f"the ONNX file came out broken: {first_line(cause)}", "Report it") from cause
    return content


def _messages(message: Any) -> Iterator[Any]:
    """The message and all within it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in value if isinstance(value, Iterable) else [value]:
                yield from _messages(item)
