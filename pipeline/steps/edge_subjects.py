"""The engines of a run as something to attack: what answers, and whose gradients an attacker has."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from devices.engine_files import read_engine
from devices.engines.base import FloatArray
from devices.engines.onnxruntime import open_reference
from devices.engines.select import open_engine
from devices.errors import ModelError
from devices.queries.base import Run
from devices.scoring import as_tuple
from pipeline.graph_nodes import ENGINE_PREFIX
from pipeline.steps.convert import ONNX_FILE, reference_of
from pipeline.steps.networks import network_of
from pipeline.threats.edge.record import Origin
from pipeline.threats.edge.subject import Subject
from pipeline.twin.build import build_twin
from pipeline.work import StepInputs

_ROUNDED = ("int8", "fp8")


def subjects_of(inputs: StepInputs) -> list[Subject]:
    """Every engine of the run, the baseline first."""
    graphs: dict[str, str] = inputs.options["graphs"]
    names = sorted(graphs, key=lambda name: name != inputs.work.baseline)
    networks = {form: network_of(inputs, node) for form, node in inputs.options["forms"].items()}
    return [_subject(inputs, name, graphs[name], networks[name.partition("-")[0]]) for name in names]


def float_pairs(inputs: StepInputs) -> list[tuple[Subject, Subject]]:
    """The baseline's precision and INT8 of each form, the dense one first."""
    found = {subject.name: subject for subject in subjects_of(inputs)}
    precision = inputs.work.engines.baseline
    return [(found[f"{form}-{precision}"], found[f"{form}-int8"]) for form in inputs.options["forms"]]


def origin_of(inputs: StepInputs) -> Origin:
    """Whose answers the subjects give."""
    return "engine" if inputs.options["here"] else "graph"


def gradients_of(onnx_path: Path, network: nn.Module | None, rounded: bool) -> tuple[nn.Module, bool]:
    """What an attacker differentiates for a graph, and whether it rounds as the graph does.

    `network` is the torch network in float; a graph that has no twin is attacked through it. Raises `ModelError` when
    there is neither.
    """
    if network is not None and not rounded:
        return network, True
    try:
        return build_twin(onnx_path), True
    except ModelError:
        if network is None:
            raise
        return network, False


def _subject(inputs: StepInputs, name: str, graph: str, network: nn.Module) -> Subject:
    folder = inputs.path(graph)
    rounded = name.rpartition("-")[2] in _ROUNDED
    given, exact = gradients_of(folder / ONNX_FILE, network.eval().requires_grad_(False), rounded)
    return Subject(name, _run(inputs, name, folder), given, folder / ONNX_FILE, exact)


def _run(inputs: StepInputs, name: str, graph: Path) -> Run:
    if inputs.options["here"]:
        return open_engine(*read_engine(inputs.path(f"{ENGINE_PREFIX}{name}")), inputs.work.host).run
    answer = open_reference(reference_of(graph), inputs.work.recipe.threads)

    def run(images_NCHW: FloatArray) -> FloatArray:
        return as_tuple(answer(images_NCHW))[0]

    return run
