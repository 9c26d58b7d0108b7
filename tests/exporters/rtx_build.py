"""Build an engine with TensorRT-RTX, ahead of time, on a machine without a GPU: `python rtx_build.py MODEL SM H W`.

A program of its own, because one build has one process, and the library may live in another environment. Prints one
line of JSON: {"ok": bool, "says": text, "size_bytes": int, "layers": [text]}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import tensorrt_rtx as trt  # type: ignore[import-not-found, unused-ignore]


class _Log(trt.ILogger):  # type: ignore[misc, name-defined, unused-ignore]
    """Keeps what goes wrong: the builder says it nowhere else."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        if severity <= trt.ILogger.Severity.ERROR:
            self.errors.append(message)


def build(path: Path, capability: str, image: tuple[int, int, int]) -> dict[str, object]:
    """Parse and build for one compute capability, such as `SM89`, and one image of (C, H, W)."""
    log = _Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(path.read_bytes()):
        return {"ok": False, "says": "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))}
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    profile = builder.create_optimization_profile()
    entry = network.get_input(0)
    profile.set_shape(entry.name, (1, *image), (1, *image), (4, *image))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return {"ok": False, "says": "; ".join(log.errors) or "no engine, and no word why"}
    return {"ok": True, "says": "; ".join(log.errors), "size_bytes": int(plan.nbytes)}


if __name__ == "__main__":
    print(json.dumps(build(Path(sys.argv[1]), sys.argv[2], tuple(map(int, sys.argv[3:6])))))  # type: ignore[arg-type]
