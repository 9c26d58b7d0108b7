"""What of the documented commands is not run by the tests, and why; and by how much recipes are made smaller.

A command that is not run is still read by its parser, so its name and its options exist.
"""

from __future__ import annotations

import re
from typing import Any

NOT_RUN = (
    (r"pip (un)?install|pip wheel", "changes the environment, and wheels come from the network"),
    (r"make (test|coverage|lint|format|docs|reference|clean)\b", "these run the tests, or undo what they stand on"),
    (r"make (bench-|gpu-check|mutate)", "takes minutes to hours, a GPU, or data of one's own"),
    (
        r".*(user@|--host|HOST=|--fleet|FLEET=)",
        "needs a board; tests/devices/remote have one of their own",
    ),
    (r"ssh", "needs a board"),
    (r"(make run|espalier run) .*rtx-", "builds TensorRT-RTX engines for a minute; tests/exporters/test_rtx.py does"),
    (r"espalier run .*--profile", "needs the device that the profile is of"),
    (r".*cifar10-resnet20", "needs images and weights of CIFAR-10"),
    (r"(make run|espalier run) .*--full", "AutoAttack's standard budget; tests/pipeline/test_recipe_full.py lists it"),
    (r".*face-detector", "needs the detector's file; tests/pipeline/test_detector_chain.py makes one"),
)

_SHORT: dict[str, Any] = {
    "threads": 1,
    "finetune": {"epochs": 1},
    "measure": {"duration_s": 0.2, "warmup_s": 0.02, "processes": 1},
    "robustness": {
        "attacks": ["fgsm"],
        "samples": 48,  # patches are made with half of them, and judged with the other half
        "queries": ["square"],
        "query_samples": 4,
        "query_budget": 8,
        "corruptions": [],
    },
    "gate": {"max_accuracy_drop": 100.0},
}
SMALLER: dict[str, dict[str, Any]] = {
    "recipes/digits.toml": _SHORT
    | {
        "model": {"args": {"in_channels": 1, "channels": 8, "blocks": 1, "classes": 10}},
        "objective": {"kind": "plain"},
        "train": {"epochs": 2},
        "prune": {"target_macs": 0.7},
        "recalibrate": {"samples": 128},
        "quantize": {"calibration_samples": 64, "only_if_faster": False},
        "parity": {"samples": 64, "float_agreement": 0.9, "int8_agreement": 0.5, "int8_engine_agreement": 0.7},
    },
    "recipes/mlp.toml": _SHORT | {"train": {"epochs": 1}},
    # Its page asks for a small loss of accuracy, which few images cannot prove.
    "mine.toml": _SHORT | {"robustness": _SHORT["robustness"] | {"samples": 150}, "gate": {}},
    "fromonnx.toml": {"threads": 1, "measure": _SHORT["measure"]},
}
"""Keys in which the copies of these recipes, and recipes that pages write, differ, so that a documented run takes
seconds; [gate] is replaced whole."""


def why_not_run(command: str) -> str:
    """The reason; empty for a command that is run."""
    return next((reason for pattern, reason in NOT_RUN if re.match(pattern, command)), "")
