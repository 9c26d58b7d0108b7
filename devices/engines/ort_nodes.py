"""Which node of a graph ran where and for how long, as ONNX Runtime's own profiler tells."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devices.errors import DeviceError

_SUFFIX = "_kernel_time"


@dataclass(frozen=True)
class NodeRun:
    """One node in one query."""

    name: str
    """Of the graph's node, or of what the provider made of several."""
    operator: str
    provider: str
    duration_us: int
    """In whole microseconds, as the profiler counts."""
    output_shape: tuple[int, ...]
    """Of its first output; empty where it is not told."""


@contextmanager
def profiling(session_options: Any) -> Iterator[Callable[[Any], list[NodeRun]]]:
    """A session that is made with these options inside is profiled from then on.

    Yields a function that ends it and returns every node of every query since, in the order in which they ran; the
    session runs on without.
    """
    with tempfile.TemporaryDirectory(prefix="espalier-nodes-") as folder:
        session_options.enable_profiling = True
        session_options.profile_file_prefix = str(Path(folder, "nodes"))
        yield lambda session: read_profile_runs(Path(session.end_profiling()))


def read_profile_runs(path: Path) -> list[NodeRun]:
    """Node runs of a profile that ONNX Runtime wrote. Raises `DeviceError` when it is none."""
    try:
        events = json.loads(path.read_bytes())
        return [_run(event) for event in events if _is_kernel(event)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
        fix = "Use a version of ONNX Runtime that is tested with this one"
        raise DeviceError("ONNX Runtime's profile", f"cannot be read ({cause})", fix) from cause


def _is_kernel(event: Any) -> bool:
    return event.get("cat") == "Node" and str(event.get("name", "")).endswith(_SUFFIX)


def _run(event: Any) -> NodeRun:
    told = event["args"]
    first: dict[str, list[int]] = next(iter(told.get("output_type_shape") or []), {})
    shape: list[int] = next(iter(first.values()), [])
    return NodeRun(
        name=str(event["name"])[: -len(_SUFFIX)],
        operator=str(told["op_name"]),
        provider=str(told["provider"]),
        duration_us=int(event["dur"]),
        output_shape=tuple(int(size) for size in shape),
    )
