"""Steps from network to engine: export, simplify, quantize, build. Each proves parity with the form before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from devices.engine_files import ENGINE_FILE, read_engine, write_info
from devices.engines import onnxruntime
from devices.engines.select import ort_options
from devices.stage import Metrics
from exporters.onnx_export import export_onnx
from exporters.parity import Agreement, ParityLimits, compare, require
from exporters.quantize import quantize_int8
from exporters.simplify import simplify_onnx
from exporters.sparsity import require_two_of_four
from pipeline.compute import deterministic
from pipeline.data import seeded_choice
from pipeline.model import NetworkArtifact, load_plan
from pipeline.opset import choose_opset
from pipeline.recipe import ParityConfig
from pipeline.steps.networks import load
from pipeline.tasks.select import task_of
from pipeline.work import StepInputs

ONNX_FILE = "model.onnx"


def export(inputs: StepInputs) -> Metrics:
    """Torch network to ONNX."""
    work = inputs.work
    (stored,) = inputs.results.values()
    network = load(inputs, stored.folder)
    opset = choose_opset(work.recipe.export, work.profile)
    path = inputs.folder / ONNX_FILE
    with deterministic(work.recipe.seed, work.recipe.threads):
        parity = export_onnx(
            network,
            work.parity_images,
            opset,
            path,
            _float_limits(work.recipe.parity),
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
        _float_limits(work.recipe.parity),
        work.recipe.threads,
        agreement_of(inputs),
    )
    return {"parity": parity.as_dict(), **nodes, "two_of_four": _still_two_of_four(inputs)}


def quantize(inputs: StepInputs) -> Metrics:
    """Simplified ONNX to INT8, calibrated on training images only."""
    work = inputs.work
    (stored,) = inputs.results.values()
    train = work.dataset.train
    chosen = seeded_choice(len(train), work.recipe.quantize.calibration_samples, work.recipe.seed)
    activations = work.profile.engine.int8_activations
    assert activations is not None
    parity = quantize_int8(
        stored.folder / ONNX_FILE,
        inputs.folder / ONNX_FILE,
        train.batch(chosen),
        work.parity_images,
        activations,
        work.weight_bits,
        _int8_limits(work.recipe.parity),
        work.recipe.threads,
        agreement_of(inputs),
    )
    return {
        "parity": parity.as_dict(),
        "calibration_samples": len(chosen),
        "activations": activations,
        "weight_bits": work.weight_bits,
        "two_of_four": _still_two_of_four(inputs),
    }


def build(inputs: StepInputs) -> Metrics:
    """ONNX to engine."""
    work = inputs.work
    ((node, stored),) = inputs.results.items()
    onnx_path = stored.folder / ONNX_FILE
    options = ort_options(work.profile)
    info = onnxruntime.build(onnx_path, inputs.folder / ENGINE_FILE, options, work.host)
    write_info(inputs.folder, info)
    engine = onnxruntime.open_engine(*read_engine(inputs.folder), work.host)
    expected = onnxruntime.open_reference(onnx_path, work.recipe.threads)(work.parity_images)
    # Integer kernels round once where the graph as written rounds at every node.
    quantized = node.startswith("quantized")
    limits = _int8_engine_limits(work.recipe.parity) if quantized else _float_limits(work.recipe.parity)
    answered = engine.run_all(work.parity_images)
    found = answered if isinstance(expected, tuple) else answered[0]
    parity = compare("ONNX to engine", expected, found, agreement_of(inputs))
    require(parity, limits, "The engine does not compute what the graph says; report it with its model")
    return {"parity": parity.as_dict(), "size_bytes": (inputs.folder / ENGINE_FILE).stat().st_size}


def agreement_of(inputs: StepInputs) -> Agreement | None:
    """How far the answers of two forms agree, by the recipe's task."""
    return task_of(inputs.work.recipe.task).agreement


def _masked_shapes(network: nn.Module, folder: Path) -> dict[str, list[int]]:
    """Shape of every weight that pruning made 2:4, by name."""
    plan = load_plan(NetworkArtifact(folder))
    return {name: list(network.get_parameter(name).shape) for name in (plan.masked if plan else ())}


def _still_two_of_four(inputs: StepInputs) -> dict[str, list[int]]:
    """Prove on this step's graph that the weights which were 2:4 before still are."""
    (stored,) = inputs.results.values()
    masked: dict[str, list[int]] = stored.metrics.get("two_of_four", {})
    _prove(inputs.folder / ONNX_FILE, masked)
    return masked


def _prove(path: Path, masked: Mapping[str, Sequence[int]]) -> None:
    require_two_of_four(path, {name: tuple(shape) for name, shape in masked.items()})


def _float_limits(config: ParityConfig) -> ParityLimits:
    return ParityLimits(min_sqnr_db=config.float_sqnr_db, min_agreement=config.float_agreement)


def _int8_limits(config: ParityConfig) -> ParityLimits:
    return ParityLimits(min_sqnr_db=config.int8_sqnr_db, min_agreement=config.int8_agreement)


def _int8_engine_limits(config: ParityConfig) -> ParityLimits:
    return ParityLimits(min_sqnr_db=config.int8_engine_sqnr_db, min_agreement=config.int8_engine_agreement)
