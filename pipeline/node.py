"""One step of a run, as data."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from devices.stage import Metrics
from pipeline.work import StepInputs

DATA = ("numpy", "pillow", "scikit-learn")
TORCH = ("torch", *DATA)
ORT = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", *DATA)
TENSORRT = ("tensorrt", "tensorrt-rtx")
ONNX = ("torch", "onnx", "onnxscript", *ORT)


@dataclass(frozen=True, kw_only=True)
class Node:
    """One step of a run."""

    name: str
    """Unique in the run, such as `quantized dense`."""
    stage: str
    """What the user calls it, and its folder in the store."""
    step: str
    """`module:function` of the step, imported only when it runs."""
    needs: tuple[str, ...]
    config: dict[str, Any]
    """All that decides the result besides code, libraries and the results it needs."""
    libraries: tuple[str, ...]

    def load(self) -> Callable[[StepInputs], Metrics]:
        """Import the step."""
        module, _, name = self.step.partition(":")
        return cast(Callable[[StepInputs], Metrics], getattr(importlib.import_module(module), name))


def make_node(
    name: str, stage: str, step: str, needs: tuple[str, ...], config: dict[str, Any], libraries: tuple[str, ...]
) -> Node:
    """A node whose step is `module:function` below `pipeline.steps`."""
    return Node(name=name, stage=stage, step=f"pipeline.steps.{step}", needs=needs, config=config, libraries=libraries)
