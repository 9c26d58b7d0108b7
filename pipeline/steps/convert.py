"""Steps from network to graph: export and simplify. Each proves parity with the form before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from devices.stage import Metrics
from exporters.onnx_export import export_onnx
from exporters.simplify import simplify_onnx
from exporters.sparsity import require_two_of_four
from pipeline.compute import deterministic
from pipeline.model import NetworkArtifact, load_plan
from pipeline.steps.limits import agreement_of, graph_limits
from pipeline.steps.networks import load
from pipeline.work import StepInputs

ONNX_FILE = "model.onnx"
STAND_IN_FILE = "stand-in.onnx"
"""A graph of the same answers, for a CPU that does not compute in the precision of `model.onnx`."""


def export(inputs: StepInputs) -> Metrics:
    """Torch network to ONNX."""
    work = inputs.work
    (stored,) = inputs.results.values()
    network = load(inputs, stored.folder)
    opset = work.opset
    path = inputs.folder / ONNX_FILE
    with deterministic(work.recipe.seed, work.recipe.threads):
        parity = export_onnx(
            network,
            work.parity_images,
            opset,
            path,
            graph_limits(work.recipe.parity, "fp32"),
            work.recipe.threads,
            agreement_of(inputs),
        )
    masked = _masked_shapes(network, stored.folder) if inputs.options.get("two_of_four") else {}
    _prove(path, masked)
    return {"opset": opset, "parity": parity.as_dict(), "size_bytes": path.stat().st_size, "two_of_four": masked}


def simplify(inputs: StepInputs) -> Metrics:
    """ONNX to simplified ONNX."""
    work = inputs.work
    (stored,) = inputs.results.values()
    parity, nodes = simplify_onnx(
        stored.folder / ONNX_FILE,
        inputs.folder / ONNX_FILE,
        work.parity_images,
        graph_limits(work.recipe.parity, "fp32"),
        work.recipe.threads,
        agreement_of(inputs),
    )
    return {"parity": parity.as_dict(), **nodes, "two_of_four": still_two_of_four(inputs)}


def reference_of(folder: Path) -> Path:
    """The file of a graph's folder that says, in ONNX Runtime on any CPU, what the graph answers."""
    stand_in = folder / STAND_IN_FILE
    return stand_in if stand_in.is_file() else folder / ONNX_FILE


def _masked_shapes(network: nn.Module, folder: Path) -> dict[str, list[int]]:
    """Shape of every weight that pruning made 2:4, by name."""
    plan = load_plan(NetworkArtifact(folder))
    return {name: list(network.get_parameter(name).shape) for name in (plan.masked if plan else ())}


def still_two_of_four(inputs: StepInputs) -> dict[str, list[int]]:
    """Prove on this step's graph that the weights which were 2:4 before still are."""
    stored = inputs.results[inputs.options["source"]]
    masked: dict[str, list[int]] = stored.metrics.get("two_of_four", {})
    _prove(inputs.folder / ONNX_FILE, masked)
    return masked


def _prove(path: Path, masked: Mapping[str, Sequence[int]]) -> None:
    require_two_of_four(path, {name: tuple(shape) for name, shape in masked.items()})
