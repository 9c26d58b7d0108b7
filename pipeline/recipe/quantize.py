"""What a recipe says about the precision of the engine that ships."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.recipe.base import Count, Section, Unit


class MixedConfig(Section):
    """Accuracy budget of a quantized graph: layers stay in higher precision until it holds, those first whose harm is
    greatest for their multiply-accumulates. Cost is counted so on every device, not measured: the same recipe then
    keeps the same layers everywhere. Whether the graph is faster for it is measured afterwards, as of any."""

    max_score_drop: Annotated[float, Field(ge=0, le=100)] | None = None
    """Points of the score, such as accuracy, that the graph may lose against the one before quantization."""
    min_agreement: Unit | None = None
    """Share of answers that are those of the graph before quantization, at least."""
    min_sqnr_db: float | None = None
    """Signal to noise of the outputs, at least."""
    sensitivity: Literal["alone", "restored"] = "alone"
    """Harm of a layer: `alone`, with only this layer quantized; `restored`, what leaving it alone out gives back."""
    samples: Annotated[int, Field(ge=8)] = 256
    """Training images that harm and budget are judged on; none of them set a scale."""
    max_trials: Annotated[int, Field(ge=2)] = 64
    """Graphs that are tried at most, those that measure single layers not counted."""

    @model_validator(mode="after")
    def _budget(self) -> MixedConfig:
        if self.max_score_drop is None and self.min_agreement is None and self.min_sqnr_db is None:
            raise ValueError("[quantize.mixed] has no budget: set max_score_drop, min_agreement or min_sqnr_db")
        return self


class QuantizeConfig(Section):
    """Precision of the shipped engine."""

    precision: Literal["fp32", "fp16", "bf16", "int8", "fp8"] = "int8"
    """What is asked for; the device's profile says what it computes in."""
    only_if_faster: bool = True
    """Ship it only when it is measured to be faster than the same network in the device's higher precisions."""
    rest: Literal["auto", "fp32", "fp16"] = "auto"
    """What an INT8 or FP8 graph computes the rest in; `auto` is FP16 on a GPU that has it, where the opset can say
    so (19), and FP32 elsewhere."""
    calibration_samples: Count = 256
    """Training images whose ranges set the scales."""
    calibration: Literal["minmax", "entropy", "percentile"] = "minmax"
    """How the range of a value is found from them."""
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    """Of `percentile`: share of the values that the range holds, in percent."""
    operators: Literal["auto", "all", "products"] = "auto"
    """What is quantized: `all` that can be, or `products`, what goes into convolutions and matrix products alone.
    `auto` takes products for TensorRT and for networks of more matrix products than convolutions."""
    smooth_strength: Annotated[float, Field(ge=0, le=1)] | None = None
    """Strength of SmoothQuant on what LayerNormalization feeds, such as 0.5; without it, nothing is smoothed."""
    keep: tuple[Literal["first", "last"], ...] = ()
    """Layers of an INT8 or FP8 graph that stay in higher precision: the `first`, which read the image (with three
    channels, INT8 gains them little or nothing), and the `last`, which give the answers."""
    mixed: MixedConfig | None = None

    @model_validator(mode="after")
    def _calibrated(self) -> QuantizeConfig:
        if self.mixed is not None and self.precision not in ("int8", "fp8"):
            raise ValueError(f"[quantize.mixed] is of int8 and fp8, and quantize.precision is '{self.precision}'")
        if self.keep and self.precision not in ("int8", "fp8"):
            raise ValueError(f"quantize.keep is of int8 and fp8, and quantize.precision is '{self.precision}'")
        return self
