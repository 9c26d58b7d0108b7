"""What a recipe says about training and recovery."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.recipe.base import Count, Section, Share, Unit


class FitConfig(Section):
    """Training, or recovery after pruning."""

    epochs: Annotated[int, Field(ge=1, le=100_000)]
    batch_size: Annotated[int, Field(ge=2)] = 64
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    """Highest rate of the schedule."""
    schedule: Literal["one_cycle", "cosine"] = "one_cycle"
    """Of the learning rate. `one_cycle`: up and down again (Smith & Topin 2018). `cosine`: down from the start
    (Loshchilov & Hutter 2017, eq. 5, without restarts)."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    augment: Literal["none", "crop_flip"] = "none"
    """`crop_flip`: shifted by up to an eighth of the side, mirrored half the time."""
    ema_decay: Share | None = None
    """Keep an exponential moving average of the weights, this much of the old at each step, and end with it."""
    patience: Count | None = None
    """Stop after so many epochs without a better accuracy on the validation split, and end with the best weights."""
    keep_best: bool = False
    """End with the weights of the best validation epoch, and run all epochs: robust accuracy may fall again while the
    clean one rises (Rice et al. 2020). `patience` keeps the best too."""
    watch: Literal["objective", "robust"] = "objective"
    """What validation images are judged by: as [objective] trains, attacked or clean; or `robust`, attacked by its PGD
    whatever the loss, as in recovery without an adversary from a robust network."""
    validation_share: Share = 0.1
    """Share of the training images set aside for `patience` and `keep_best`, by the recipe's seed."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """`bf16`: mixed precision. `auto`: mixed where the hardware computes faster in it, a GPU, and fp32 elsewhere."""
    accelerator: Literal["cpu", "cuda", "auto"] = "auto"
    """Where it runs. `auto`: on a GPU where there is one."""
    devices: Count = 1
    """Processes, one a GPU or a share of the CPU; each takes an equal part of every batch."""

    @property
    def validates(self) -> bool:
        """Whether images are set aside for validation."""
        return self.patience is not None or self.keep_best

    @model_validator(mode="after")
    def _watched(self) -> FitConfig:
        if self.watch == "robust" and not self.validates:
            raise ValueError("watch = 'robust' needs validation: set keep_best = true, or patience")
        return self


def short_fit(recovery: FitConfig | None) -> FitConfig:
    """One epoch in one process, and otherwise as the recovery trains: for networks that are only compared."""
    once = {"epochs": 1, "devices": 1, "ema_decay": None, "patience": None, "keep_best": False, "watch": "objective"}
    return (recovery or FitConfig(epochs=1)).model_copy(update=once)


class DistillConfig(Section):
    """Recovery that also follows the dense network (Hinton et al. 2015)."""

    weight: Unit = 0.9
    """Share of the loss that comes from the dense network's answers; the rest comes from the labels."""
    temperature: Annotated[float, Field(gt=0)] = 4.0
    """Both answers are softened by it; the loss is scaled by its square."""
    features: tuple[str, ...] = ()
    """Modules whose outputs are followed too, as globs on their names (Romero et al. 2015)."""
    feature_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the mean squared difference of features, as a share of the dense network's mean square, through a
    learned 1x1 map where widths differ."""

    hsic_inputs: Annotated[float, Field(ge=0)] = 0.0
    """Weight of how much the modules of `features` depend on the image (HSIC, normalized 0 to 1): kept low."""
    hsic_labels: Annotated[float, Field(ge=0)] = 0.0
    """Weight of how much they depend on the label: kept high. Both after PwoA (Jian et al. 2022), who
    so recover a robust network from natural images alone."""

    @model_validator(mode="after")
    def _distinct(self) -> DistillConfig:
        if len(set(self.features)) != len(self.features):
            raise ValueError("distill.features names a pattern twice")
        if (self.hsic_inputs or self.hsic_labels) and not self.features:
            raise ValueError("distill.hsic_inputs and hsic_labels act on the modules of distill.features: name some")
        return self


class RecalibrateConfig(Section):
    """Statistics of BatchNorm, measured anew on training images after pruning and after recovery."""

    samples: Annotated[int, Field(ge=0)] = 2000
    """Training images, or all there are; 0 leaves the statistics as they are."""
