"""`docs/gpu.md`, made of the JSON files in `docs/gpu/`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.gpu.parts import ROOT

RESULTS = ROOT / "docs" / "gpu"
PAGE = ROOT / "docs" / "gpu.md"
_HEAD = """# Checked on GPUs

`make gpu-check` runs once what needs an NVIDIA GPU: fine-tuning on CUDA, ONNX Runtime's providers of CUDA and TensorRT,
engines of TensorRT and TensorRT-RTX with parity and latency in every precision that the GPU's profile names, cold and
warm starts with the runtime cache, telemetry. A part is `ok`, `failed`, or `absent` with what is missing. The engines'
latency is of the shape of ResNet-50, random weights, one image of 224x224, input and output in place. The exit code of
what it runs, `python -m tests.benchmarks.gpu`, is 0 when nothing that is there fails, 1 when something does, and 77 on
a machine without a GPU; `make` itself ends with 2 for both. This page is made of the files in `docs/gpu/`, one a run.
"""


def page(folder: Path = RESULTS) -> str:
    """The page's text."""
    files = sorted(folder.glob("*.json"), reverse=True)
    if not files:
        return f"{_HEAD}\nThere is none yet: no machine with a GPU has run it.\n"
    return "\n".join([_HEAD, *(line for path in files for line in _section(json.loads(path.read_text())))]) + "\n"


def _section(run: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {', '.join(run['gpus'])}, {run['date']}\n"
    yield f"Espalier {run['espalier']}, Python {run['python']}.\n"
    yield "| part | state | what was seen |"
    yield "|---|---|---|"
    for part in run["parts"]:
        seen = "; ".join([part["reason"]] * bool(part["reason"]) + list(_figures(part["figures"])))
        yield f"| {part['name']} | {part['state']} | {seen.replace('|', '/')} |"
    yield ""


def _figures(figures: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _figures(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name} {_shown(value)}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
