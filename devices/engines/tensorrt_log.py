"""What TensorRT writes to its logger, kept, and turned into one message: elsewhere it only says that it failed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from devices.errors import DeviceError, EspalierError, ModelError

ERRORS = ("INTERNAL_ERROR", "ERROR")
_SOURCE_LINE = re.compile(r"\.? ?\(?\bIn \S+ at [^\s)]+:\d+ ?|\[\w+\.cpp:\d+: \w+\] ?")
_CALL = re.compile(r"^I?\w+::\w+: |^\[\w+\.cpp::\w+::\d+\] |^Error Code \d+: |^\d+: ")
_WRAPPED = re.compile(r"^(?:Myelin|API Usage Error|Internal Error|Cuda Runtime) \((.*?)\)*$")
_MEMORY = re.compile(r"out of memory|OutOfMemory|cudaErrorMemoryAllocation|insufficient memory", re.IGNORECASE)
_WORKSPACE = re.compile(r"insufficient workspace|workspace.{0,40}(too small|not enough)", re.IGNORECASE)
_IMPLEMENTATION = re.compile(r"Could not find any implementation for node (.+?)(?: due to|\.| In |$)")
_OPERATION = re.compile(r"Cannot compile operation '(.+?)'[^:]*: (.+)")
_DATATYPE = re.compile(r"Cannot compile for target\(s\) (\S+), because the model contains HW-specific datatypes: (\w+)")
_DRIVER = re.compile(r"CUDA driver version is insufficient|no CUDA-capable device|CUDA initialization failure")
_DLA = (
    re.compile(r"^Layer '(.+)' \(\w+\): Unsupported on DLA"),
    re.compile(r"layer (.+) is not (?:supported|running) on DLA, falling back to GPU"),
    re.compile(r"Switching to GPU for layer (.+?)\.?$"),
)


@dataclass(frozen=True)
class Message:
    """One line of the library's log."""

    severity: str
    text: str


def make_logger(trt: Any, log: list[Message]) -> Any:
    """A logger of the library that appends to `log` what is a warning or worse."""

    class Keeper(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity.name in (*ERRORS, "WARNING"):
                log.append(Message(severity.name, text))

    return Keeper()


def errors_of(log: Sequence[Message]) -> list[str]:
    """Texts of the errors, without the places in the library's source."""
    return [cleaned(message.text) for message in log if message.severity in ERRORS]


def warnings_of(log: Sequence[Message]) -> tuple[str, ...]:
    """Each warning once."""
    return tuple(dict.fromkeys(cleaned(message.text) for message in log if message.severity == "WARNING"))


def cleaned(text: str) -> str:
    """The text without function names, codes and source lines."""
    line = " ".join(_SOURCE_LINE.sub("", text).split())
    for _ in range(2):
        line = _CALL.sub("", line)
    wrapped = _WRAPPED.match(line)
    return (wrapped.group(1) if wrapped else line).strip()


def on_gpu_instead(log: Sequence[Message]) -> tuple[str, ...]:
    """Layers that the DLA did not take, as the builder named them."""
    found: dict[str, None] = {}
    for message in log:
        for pattern in _DLA:
            match = pattern.search(message.text)
            if match:
                found[match.group(1)] = None
    return tuple(found)


def build_failure(title: str, where: str, log: Sequence[Message]) -> EspalierError:
    """One error for a build that gave no engine."""
    texts = errors_of(log)
    whole = "; ".join(texts)
    if _MEMORY.search(whole):
        return DeviceError("engine build", f"{title} ran out of memory: {texts[0]}", "Close what else uses the device")
    if _DRIVER.search(whole):
        return DeviceError("engine build", f"{title} finds no NVIDIA GPU it can use: {texts[0]}", "Check the driver")
    implementation = _IMPLEMENTATION.search(whole)
    if implementation and _WORKSPACE.search(whole):
        what = f"{title} has too little workspace for layer '{implementation.group(1)}'"
        return DeviceError("engine.workspace_mb", what, "Raise it in the device's profile")
    if implementation:
        return ModelError(where, f"{title} has no kernel for layer '{implementation.group(1)}'", "Change that layer")
    operation = _OPERATION.search(whole)
    if operation:
        what = f"{title} cannot compile layer '{operation.group(1)}': {operation.group(2)}"
        return ModelError(where, what, "Choose a precision that the device has")
    datatype = _DATATYPE.search(whole)
    if datatype:
        what = f"{title} compiles no {datatype.group(2)} for {datatype.group(1)}"
        return DeviceError(where, what, "Choose a precision that the device has")
    said = texts[0] if texts else "it said nothing"
    return ModelError(where, f"{title} builds no engine of it: {said}", "See the operators that it takes")
