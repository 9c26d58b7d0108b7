"""Steps from network to engine: export, simplify, quantize, build. Each proves parity with the form before it."""

from __future__ import annotations

from devices.engine_files import ENGINE_FILE, read_engine, write_info
from devices.engines import onnxruntime
from devices.engines.select import ort_options
from devices.stage import Metrics
from exporters.onnx_export import export_onnx
from exporters.parity import ParityLimits, compare, require
from exporters.quantize import quantize_int8
from exporters.simplify import simplify_onnx
from pipeline.compute import deterministic
from pipeline.data import seeded_choice
from pipeline.model import NetworkArtifact, load_network
from pipeline.opset import choose_opset
from pipeline.recipe import ParityConfig
from pipeline.work import StepInputs

ONNX_FILE = "model.onnx"


def export(inputs: StepInputs) -> Metrics:
    """Torch network to ONNX."""
    work = inputs.work
    (stored,) = inputs.results.values()
    network = load_network(work.recipe.model, NetworkArtifact(stored.folder), work.recipe.seed)
    opset = choose_opset(work.recipe.export, work.profile)
    path = inputs.folder / ONNX_FILE
    with deterministic(work.recipe.seed, work.recipe.threads):
        parity = export_onnx(
            network, work.parity_images, opset, path, _float_limits(work.recipe.parity), work.recipe.threads
        )
    return {"opset": opset, "parity": parity.as_dict(), "size_bytes": path.stat().st_size}


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
    )
    return {"parity": parity.as_dict(), **nodes}


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
    )
    return {
        "parity": parity.as_dict(),
        "calibration_samples": len(chosen),
        "activations": activations,
        "weight_bits": work.weight_bits,
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
    parity = compare("ONNX to engine", expected, engine.run(work.parity_images))
    require(parity, limits, "The engine does not compute what the graph says; report it with its model")
    return {"parity": parity.as_dict(), "size_bytes": (inputs.folder / ENGINE_FILE).stat().st_size}


def _float_limits(config: ParityConfig) -> ParityLimits:
    return ParityLimits(min_sqnr_db=config.float_sqnr_db, min_agreement=config.float_agreement)


def _int8_limits(config: ParityConfig) -> ParityLimits:
    return ParityLimits(min_sqnr_db=config.int8_sqnr_db, min_agreement=config.int8_agreement)


def _int8_engine_limits(config: ParityConfig) -> ParityLimits:
    return ParityLimits(min_sqnr_db=config.int8_engine_sqnr_db, min_agreement=config.int8_engine_agreement)
