"""Steps that bring a graph to fewer bits: INT8 and FP8 with mixed precision, FP16 and BF16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from devices.engines.base import Outputs
from devices.errors import StorageError
from devices.files import read_json, write_json
from devices.scoring import as_tuple
from devices.stage import Metrics
from exporters.fp8 import Fp8Conversion, convert_fp8
from exporters.half import HalfOptions, HalfType, convert_half
from exporters.half_check import overflow_lines
from exporters.mixed import JUDGE_IMAGES, MixedConfig, choose_fp8_layers, choose_int8_layers
from exporters.mixed_choice import mixed_lines
from exporters.mixed_trials import images_apart
from exporters.quantize import Int8Conversion, convert_int8
from exporters.quantize_layers import has_attention
from exporters.quantize_options import Operators, QuantizeOptions
from pipeline.data import seeded_choice
from pipeline.steps.convert import ONNX_FILE, STAND_IN_FILE, still_two_of_four
from pipeline.steps.limits import agreement_of, graph_limits, rounding_limits
from pipeline.tasks.select import task_of
from pipeline.work import StepInputs, Work

MIXED_FILE = "mixed.json"


def mix(inputs: StepInputs) -> Metrics:
    """Choose the layers that stay in higher precision, so that the recipe's accuracy budget holds."""
    work = inputs.work
    config, wanted = work.recipe.quantize, work.recipe.quantize.mixed
    assert wanted is not None
    train = work.dataset.train
    # Not those that set scales, and not those that prove parity.
    passed_over = config.calibration_samples + work.recipe.parity.samples
    chosen = seeded_choice(len(train), wanted.samples, work.recipe.seed, passed_over)
    images = calibration_images(work)
    # All the same where there are few, or equal ones.
    chosen = chosen[images_apart(images, train.batch(chosen), JUDGE_IMAGES)]
    judge_NCHW, targets = train.batch(chosen), train.labels[chosen]
    task = task_of(work.recipe.task)

    def score(outputs: Outputs) -> float:
        return float(np.mean(task.scores(as_tuple(outputs), targets).values))

    asked = MixedConfig(
        min_sqnr_db=wanted.min_sqnr_db,
        min_agreement=wanted.min_agreement,
        max_score_drop=None if wanted.max_score_drop is None else wanted.max_score_drop / 100,
        sensitivity=wanted.sensitivity,
        max_trials=wanted.max_trials,
        cost="macs",
    )
    source, options, threads = _source(inputs), options_of(work, _source(inputs), ()), work.recipe.threads
    if config.precision == "fp8":
        choice = choose_fp8_layers(source, images, judge_NCHW, asked, threads, options, task.agreement, score)
    else:
        activations = work.profile.engine.int8_activations
        assert activations is not None
        flavour = activations, work.weight_bits
        choice = choose_int8_layers(
            source, images, judge_NCHW, *flavour, asked, threads, options, task.agreement, score
        )
    write_json(inputs.folder / MIXED_FILE, choice.as_dict())
    (source_name,) = inputs.results
    line = f"{source_name.removeprefix('simplified ')}: {mixed_lines(choice)[0]} (cost counted in multiply-accumulates)"
    return {
        "kept": list(choice.kept),
        "trials": len(choice.curve),
        "judged_on": choice.judged_on,
        "cost": asked.cost,
        "lines": [line],
    }


def quantize(inputs: StepInputs) -> Metrics:
    """Simplified ONNX to INT8 or FP8, calibrated on training images only."""
    work = inputs.work
    config, parity = work.recipe.quantize, work.recipe.parity
    kept = kept_layers(inputs, inputs.options["mixed"])
    images, options = calibration_images(work), options_of(work, _source(inputs), kept)
    target, limits = inputs.folder / ONNX_FILE, graph_limits(parity, config.precision)
    told: dict[str, object] = {"calibration_samples": len(images), "operators": options.operators}
    given, held = (_source(inputs), target, images, work.parity_images), (limits, work.recipe.threads)
    if config.precision == "fp8":
        found: Fp8Conversion | Int8Conversion = convert_fp8(*given, *held, agreement_of(inputs), options)
    else:
        activations, bits = work.profile.engine.int8_activations, work.weight_bits
        assert activations is not None
        found = convert_int8(*given, activations, bits, *held, agreement_of(inputs), options)
        told |= {"activations": activations, "weight_bits": bits}
    return {
        "parity": found.parity.as_dict(),
        "kept": list(found.kept),
        **told,
        "two_of_four": still_two_of_four(inputs),
    }


def half(inputs: StepInputs) -> Metrics:
    """A graph in FP32, or what of a quantized one is in FP32, to FP16 or BF16."""
    work, precision = inputs.work, inputs.options["precision"]
    parity = work.recipe.parity
    to: HalfType = "bf16" if precision == "bf16" else "fp16"
    form = inputs.options["source"].split()[-1]
    conversion = convert_half(
        _source(inputs),
        inputs.folder / ONNX_FILE,
        work.parity_images,
        HalfOptions(precision=to),
        rounding_limits(parity, precision),
        work.recipe.threads,
        agreement_of(inputs),
        inputs.folder / STAND_IN_FILE,
    )
    return {
        "parity": conversion.parity.as_dict(),
        "in_half": conversion.in_half,
        "kept": list(conversion.kept),
        "overflows": [overflow.node for overflow in conversion.overflows],
        "flushed_share": conversion.flushed_share,
        "two_of_four": still_two_of_four(inputs),
        "lines": overflow_lines(f"{form} {to.upper()}", conversion.overflows),
    }


def _source(inputs: StepInputs) -> Path:
    return inputs.path(inputs.options["source"]) / ONNX_FILE


def calibration_images(work: Work) -> NDArray[np.float32]:
    """Training images that set the ranges, (N, C, H, W)."""
    train = work.dataset.train
    return train.batch(seeded_choice(len(train), work.recipe.quantize.calibration_samples, work.recipe.seed))


def kept_layers(inputs: StepInputs, chosen: str | None) -> tuple[str, ...]:
    """Layers that stay in higher precision, by the stored choice of this name."""
    if chosen is None:
        return ()
    return tuple(read_json(inputs.path(chosen) / MIXED_FILE, StorageError)["kept"])


def options_of(work: Work, source: Path, keep: tuple[str, ...]) -> QuantizeOptions:
    """How the recipe has this graph quantized, without the layers of these names."""
    config = work.recipe.quantize
    return QuantizeOptions(
        calibration=config.calibration,
        percentile=config.percentile,
        operators=_operators(work, source),
        keep=keep,
        ends=config.keep,
        smooth_strength=config.smooth_strength,
    )


def _operators(work: Work, source: Path) -> Operators:
    config = work.recipe.quantize
    if config.operators != "auto":
        return config.operators
    by_tensorrt = work.profile.engine.runtime != "onnxruntime"
    few = by_tensorrt or config.precision == "fp8" or has_attention(source)
    return "products" if few else "all"
