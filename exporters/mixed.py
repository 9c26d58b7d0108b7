"""Mixed precision: layers that quantization harms most stay in higher precision, until the accuracy budget holds.

Each layer's harm is measured by quantizing it alone, or by leaving it alone out, on images that did not set the scales.
Layers are kept in the order of harm per cost; then those that turn out to be dispensable are quantized after all, the
dearest first. What comes of it is data (`MixedChoice`), from which the graph is made again bit by bit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from devices.errors import RecipeError
from devices.profile import Activations
from devices.scoring import same_classes
from exporters.fp8 import calibrate_fp8, fp8_graph
from exporters.layers import layer_costs
from exporters.mixed_choice import MixedChoice
from exporters.mixed_search import Search, measure_harms
from exporters.mixed_trials import Figures, Judge, Make, Score, Trials, require_apart
from exporters.parity import Agreement
from exporters.quantize import CalibratedGraph, calibrate_graph, int8_graph
from exporters.quantize_layers import require_costs
from exporters.quantize_options import QuantizeOptions, require_images

Sensitivity = Literal["alone", "restored"]
Cost = Literal["equal", "macs"]
JUDGE_IMAGES = "images that judge layers"


@dataclass(frozen=True, kw_only=True)
class MixedConfig:
    """What the accuracy budget is and how it is met. Raises `RecipeError` without a budget."""

    min_sqnr_db: float | None = None
    """Signal to noise of the outputs on the judging images, at least."""
    min_agreement: float | None = None
    """Share of answers that are those of the network before quantization, at least."""
    max_score_drop: float | None = None
    """Loss of the score, such as accuracy, against the network before quantization, at most, in the score's unit."""
    sensitivity: Sensitivity = "alone"
    """Harm of a layer: `alone`, with only this layer quantized; `restored`, what all layers do less what all others
    do. The second sees how errors add up."""
    max_trials: int = 64
    """Graphs that are tried at most, those that measure single layers not counted."""
    cost: Cost = "equal"
    """Of keeping a layer, where no costs are given: `equal` for all, or its `macs`."""

    def __post_init__(self) -> None:
        if self.min_sqnr_db is None and self.min_agreement is None and self.max_score_drop is None:
            fix = "Set min_sqnr_db, min_agreement or max_score_drop"
            raise RecipeError("mixed", "has no accuracy budget", fix)
        if self.max_trials < 2:
            raise RecipeError("mixed.max_trials", f"is {self.max_trials}", "Set it to 2 at least")
        if self.sensitivity not in ("alone", "restored"):
            raise RecipeError("mixed.sensitivity", f"is {self.sensitivity!r}", "Take alone or restored")
        if self.cost not in ("equal", "macs"):
            raise RecipeError("mixed.cost", f"is {self.cost!r}", "Take equal or macs")


def choose_int8_layers(
    source: Path,
    calibration_NCHW: NDArray[np.float32],
    judge_NCHW: NDArray[np.float32],
    activations: Activations,
    weight_bits: int,
    config: MixedConfig,
    threads: int,
    options: QuantizeOptions,
    agreement: Agreement | None = same_classes,
    score: Score | None = None,
    costs: Mapping[str, float] | None = None,
) -> MixedChoice:
    """Layers of an INT8 graph that stay in FP32; hand them to `convert_int8` as `QuantizeOptions.keep`.

    `costs` says per layer what keeping it costs, in any unit; without it `config.cost` does. Raises `DataError` when
    images are unfit or judge and calibration share one, `ParityError` when the budget cannot be met, and what
    `convert_int8` raises.
    """
    calibrated = calibrate_graph(source, calibration_NCHW, threads, options)

    def make(keep: Iterable[str]) -> onnx.ModelProto:
        return int8_graph(calibrated, activations, weight_bits, set(keep), str(source))

    judge = Judge(images_NCHW=judge_NCHW, agreement=agreement, score=score, threads=threads)
    return _choose(source, calibrated, make, calibration_NCHW, judge, config, costs)


def choose_fp8_layers(
    source: Path,
    calibration_NCHW: NDArray[np.float32],
    judge_NCHW: NDArray[np.float32],
    config: MixedConfig,
    threads: int,
    options: QuantizeOptions,
    agreement: Agreement | None = same_classes,
    score: Score | None = None,
    costs: Mapping[str, float] | None = None,
) -> MixedChoice:
    """The same for FP8; hand what it says to `convert_fp8`."""
    calibrated = calibrate_fp8(source, calibration_NCHW, threads, options)

    def make(keep: Iterable[str]) -> onnx.ModelProto:
        return fp8_graph(calibrated, set(keep))

    judge = Judge(images_NCHW=judge_NCHW, agreement=agreement, score=score, threads=threads)
    return _choose(source, calibrated, make, calibration_NCHW, judge, config, costs)


def _choose(
    source: Path,
    calibrated: CalibratedGraph,
    make: Make,
    calibration_NCHW: NDArray[np.float32],
    judge: Judge,
    config: MixedConfig,
    costs: Mapping[str, float] | None,
) -> MixedChoice:
    require_images(judge.images_NCHW, onnx.load(source), JUDGE_IMAGES)
    require_apart(calibration_NCHW, judge.images_NCHW, JUDGE_IMAGES)
    if config.max_score_drop is not None and judge.score is None:
        raise RecipeError("mixed.max_score_drop", "is set, and nothing scores", "Give a score, or take min_sqnr_db")
    if costs is not None:
        require_costs(calibrated.layers, costs)
    elif config.cost == "macs":
        costs = _macs(calibrated)
    trials = Trials(source, make, judge)
    always = frozenset(calibrated.kept(calibrated.options.keep))
    harms = measure_harms(trials, calibrated.layers, always, config.sensitivity == "alone", costs)

    def holds(figures: Figures) -> bool:
        return _holds(config, figures, trials.reference_score)

    search = Search(trials, harms, always, holds, config.max_trials)
    chosen = search.run()
    return MixedChoice(
        kept=tuple(layer.name for layer in calibrated.layers if layer.name in chosen.kept),
        harms=harms,
        curve=search.curve,
        chosen=chosen,
        reference_score=trials.reference_score,
        sensitivity=config.sensitivity,
        judged_on=len(judge.images_NCHW),
    )


def _macs(calibrated: CalibratedGraph) -> dict[str, float]:
    """Multiply-accumulates of each layer for one image: what it costs more of in higher precision."""
    with tempfile.TemporaryDirectory(prefix="espalier-mixed-") as scratch:
        path = Path(scratch, "model.onnx")
        onnx.save(calibrated.model, path)
        found = {cost.name: float(cost.macs) for cost in layer_costs(path).layers}
    costs = {layer.name: found[layer.name] for layer in calibrated.layers if layer.name in found}
    require_costs(calibrated.layers, costs)
    return costs


def _holds(config: MixedConfig, figures: Figures, reference_score: float | None) -> bool:
    parity = figures.parity
    if config.min_sqnr_db is not None and parity.sqnr_db < config.min_sqnr_db:
        return False
    if config.min_agreement is not None and parity.agreement is not None and parity.agreement < config.min_agreement:
        return False
    if config.max_score_drop is None or figures.score is None or reference_score is None:
        return True
    return reference_score - figures.score <= config.max_score_drop
