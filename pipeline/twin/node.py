"""Where the twin stands in the chain."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pipeline.node import ONNX, Node, make_node
from pipeline.twin.config import TwinConfig
from pipeline.work import Work

TWIN_STAGE = "twin"


def twin_node(work: Work, data: dict[str, Any], task: dict[str, Any]) -> Node | None:
    """The twin of the graph that ships, after its engine; None where that is not INT8 or nothing is attacked.

    It needs the quantized graph first and the engine second.
    """
    recipe = work.recipe
    if work.engines.candidate != "int8" or not recipe.robustness.attacks:
        return None
    config = {
        "twin": asdict(TwinConfig()),
        "data": data,
        "task": task,
        "after": recipe.quantize.calibration_samples,
        "seed": recipe.seed,
        "threads": recipe.threads,
    }
    needs = (f"quantized {work.form}", f"engine {work.candidate}")
    return make_node(f"twin {work.form}", TWIN_STAGE, "twin:twin", needs, config, ONNX)
