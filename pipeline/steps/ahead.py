"""Steps on engines that do not run here: a prediction of their latency, and what their graphs answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from devices.attack import Answering, replay_answers
from devices.engine_files import read_info
from devices.engines.base import FloatArray
from devices.engines.onnxruntime import open_reference
from devices.errors import BundleError, DeviceError
from devices.files import read_json, write_json
from devices.predict import predict as predict_latency
from devices.robustness import INDEX_FILE, read_sets
from devices.scoring import as_tuple
from devices.stage import Metrics
from exporters.layers import layer_costs
from pipeline.graph_nodes import ENGINE_PREFIX
from pipeline.steps.convert import ONNX_FILE, reference_of
from pipeline.tasks.select import task_of
from pipeline.work import StepInputs

PREDICTIONS_FILE = "predictions.json"


def predict(inputs: StepInputs) -> Metrics:
    """Size and predicted latency by engine, in the form of measurements; nothing in it was measured."""
    predictions, engines = {}, {}
    for node, graph in _graphs(inputs).items():
        name = node.removeprefix(ENGINE_PREFIX)
        predictions[name] = _prediction(inputs, inputs.path(graph) / ONNX_FILE)
        # The layers stand in the file.
        short = {key: value for key, value in predictions[name].items() if key != "layers"}
        size_bytes = inputs.results[node].metrics["size_bytes"]
        engines[name] = {"size_bytes": size_bytes, "latency": None, "predicted": short}
    write_json(inputs.folder / PREDICTIONS_FILE, predictions)
    return {"kind": "predicted", "engines": engines, "speedups": []}


def replay_graphs(inputs: StepInputs) -> Metrics:
    """Evaluation sets through the graph of each engine, in ONNX Runtime on this host: of the graph, not the engine."""
    folder = inputs.path("sets")
    index = folder / INDEX_FILE
    sets = read_sets(read_json(index, BundleError), lambda name: (folder / name).read_bytes(), str(index))
    work = inputs.work

    def answering(node: str, graph: str) -> Callable[[], Answering]:
        def load() -> Answering:
            run = open_reference(reference_of(inputs.path(graph)), work.recipe.threads)

            def run_all(images_NCHW: FloatArray) -> tuple[FloatArray, ...]:
                return as_tuple(run(images_NCHW))

            return Answering(read_info(inputs.path(node)), run_all)

        return load

    loaders = {node.removeprefix(ENGINE_PREFIX): answering(node, graph) for node, graph in _graphs(inputs).items()}
    scorer = task_of(work.recipe.task).scores
    return replay_answers(loaders, work.baseline, sets, inputs.folder, inputs.progress, scorer, of="graph").metrics


def _graphs(inputs: StepInputs) -> dict[str, str]:
    graphs: dict[str, str] = inputs.options["graphs"]
    return graphs


def _prediction(inputs: StepInputs, onnx_path: Path) -> dict[str, Any]:
    try:
        return predict_latency(layer_costs(onnx_path), inputs.work.profile).as_dict()
    except DeviceError as lacking:
        # A profile need not know the rates of its device.
        return {"kind": "predicted", "latency_ms": None, "why": str(lacking)}
