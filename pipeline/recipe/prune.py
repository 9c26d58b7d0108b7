"""What a recipe says about pruning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.recipe.base import Count, Section, Share, Unit

Granularity = Literal["channels", "weights", "2:4", "blocks", "blocks_and_channels"]
Kind = Literal["channels", "neurons", "heads"]
Criterion = Literal["l1", "l2", "bn_scale", "taylor", "hessian", "fpgm", "lamp", "activation", "learned", "random"]
Scope = Literal["global", "local", "allocated", "sensitivity"]
LatencySource = Literal["auto", "measured", "table", "predicted"]

_DEFAULT_CRITERION: Criterion = "l2"
_UNSCORED = {"2:4": "magnitude", "blocks": "the loss"}
"""Granularities that no criterion decides, and what does."""
_OF_CHANNELS: tuple[Criterion, ...] = ("fpgm", "bn_scale", "activation")

TARGETS = (
    "target_macs",
    "target_parameters",
    "target_size_bytes",
    "target_latency_ms",
    "target_sparsity",
    "keep_ratio",
    "keep",
)
_TARGETS_OF: dict[str, tuple[str, ...]] = {
    "channels": ("target_macs", "target_parameters", "target_size_bytes", "target_latency_ms", "keep_ratio", "keep"),
    "blocks": ("target_macs", "target_parameters", "target_size_bytes", "target_latency_ms"),
    "blocks_and_channels": ("target_macs", "target_parameters", "target_size_bytes", "target_latency_ms"),
    "weights": ("target_sparsity",),
    "2:4": (),
}


class LearnedConfig(Section):
    """Of criterion `learned`: the training of the scores, under the loss of [objective]. They choose which units of a
    group stay; how many, the criterion `l2` decides."""

    epochs: Count = 5
    batch_size: Annotated[int, Field(ge=2)] = 64
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    """Of scores whose mean is 1 at the start; falls to 0."""
    accelerator: Literal["cpu", "cuda", "auto"] = "auto"
    """Where they are trained. `auto`: on a GPU where there is one."""


class PruneConfig(Section):
    """What is removed, by which criterion, down to which target."""

    granularity: Granularity = "channels"
    """`channels`: channels, neurons and attention heads go, with all that belongs to them. `blocks`: whole residual
    blocks. `blocks_and_channels`: blocks, then channels of what is left. `weights`: single weights become zero.
    `2:4`: two of every four weights become zero."""
    blocks: Annotated[int, Field(ge=0)] | None = None
    """Of granularity `blocks_and_channels`: so many blocks go. Without it, every count is tried, and the one is taken
    after which the network changes least."""
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] = ("channels", "neurons", "heads")
    """What `channels` may touch: outputs of convolutions, outputs of linear layers, heads of attention."""
    target_macs: Share | None = None
    """Share of the multiply-accumulates that may remain."""
    target_parameters: Share | None = None
    """Share of the parameters that may remain."""
    target_size_bytes: Count | None = None
    """Bytes that the weights may take in the precision that ships: 4 each in FP32, 1 in INT8."""
    target_latency_ms: Annotated[float, Field(gt=0)] | None = None
    """Median latency on the device, one image."""
    target_sparsity: Share | None = None
    """Of granularity `weights`: share of the weights that become zero."""
    keep_ratio: Share | None = None
    """Share of its width that every group keeps."""
    keep: dict[str, Unit] = Field(default_factory=dict)
    """Share of its width that a group keeps, by globs on the groups' names; the others stay whole."""
    latency_source: LatencySource = "auto"
    """Where milliseconds come from: engines `measured` on this device, the profile's `table`, or `predicted` from the
    device's rates. `auto`: the first of these that there is."""
    criterion: Criterion = _DEFAULT_CRITERION
    """What scores a channel or weight; those of least score go first. Granularities `channels` and
    `blocks_and_channels` take all but `lamp`, and of these `blocks_and_channels` not `learned`; `weights` takes `l1`
    and `l2` (both the magnitude), `lamp`, `taylor`, `hessian`, `learned` and `random`. `blocks` goes by the loss, `2:4`
    by magnitude."""
    criterion_samples: Count = 512
    """Training images that a criterion which needs data looks at."""
    tune_samples: Annotated[int, Field(ge=0)] = 0
    """Of granularities `blocks` and `blocks_and_channels`: every network that they compare is first trained on so many
    further images, once, as [finetune] trains (NetAdapt's short fine-tuning, Yang et al. 2018)."""
    learned: LearnedConfig = LearnedConfig()
    """Of criterion `learned`, which trains a score for each channel or weight, the weights being frozen."""
    scope: Scope = "global"
    """`global`: all layers compete by score. `local`: every layer keeps the same share. `allocated`: each step goes
    where the least score is lost for what it saves. `sensitivity`: where the loss on training images rises least for
    what it saves, BatchNorm measured anew; it runs the network for every step tried."""
    min_channels: Count = 1
    """No group of channels falls below this."""
    ignore: tuple[str, ...] = ()
    """Parameters whose channels stay, as globs on their names, such as `stem.*`."""
    schedule: Literal["one_shot", "linear", "polynomial"] = "one_shot"
    """How the share removed grows over the steps; fine-tuning follows each, its epochs divided among them."""
    steps: Count = 1
    """Steps of a schedule other than `one_shot`."""
    power: Annotated[float, Field(gt=0)] = 3.0
    """Of `polynomial`: 1 - (1 - t)^power of the whole is removed at time t (Zhu & Gupta 2017, eq. 1, has 3)."""

    @property
    def target(self) -> str | None:
        """Name of the target that is set; None for 2:4, which has none."""
        given = [name for name in TARGETS if getattr(self, name) not in (None, {})]
        return given[0] if given else None

    @model_validator(mode="after")
    def _one_target(self) -> PruneConfig:
        given = [name for name in TARGETS if getattr(self, name) not in (None, {})]
        allowed = _TARGETS_OF[self.granularity]
        wrong = [name for name in given if name not in allowed]
        if wrong:
            raise ValueError(f"prune.{wrong[0]} is not a target of granularity '{self.granularity}'")
        if allowed and len(given) != 1:
            them = f"{len(given)} ({', '.join(given)})" if given else "0"
            raise ValueError(f"[prune] needs one target, not {them}; there are {', '.join(allowed)}")
        self._check_criterion()
        if self.granularity == "weights" and self.scope not in ("global", "local"):
            raise ValueError(f"prune.scope '{self.scope}' is of channels: take 'global' or 'local' for single weights")
        if self.blocks is not None and (self.granularity, self.schedule) != ("blocks_and_channels", "one_shot"):
            raise ValueError("prune.blocks is of granularity 'blocks_and_channels' and schedule 'one_shot'")
        if self.tune_samples and self.granularity not in ("blocks", "blocks_and_channels"):
            raise ValueError("prune.tune_samples is of granularities 'blocks' and 'blocks_and_channels'")
        if self.granularity == "2:4" and self.schedule != "one_shot":
            raise ValueError("prune.granularity '2:4' has no share to grow over steps: schedule 'one_shot'")
        if (self.schedule == "one_shot") != (self.steps == 1):
            raise ValueError("prune.steps is above 1 for schedules 'linear' and 'polynomial', and 1 for 'one_shot'")
        return self

    def _check_criterion(self) -> None:
        if self.criterion == "lamp" and (self.granularity != "weights" or self.scope != "global"):
            raise ValueError(
                "prune.criterion 'lamp' ranks single weights globally: granularity 'weights', scope 'global'"
            )
        if self.criterion == "learned":
            self._check_learned()
        # A recorded recipe has every key: what says nothing is the default.
        if self.granularity in _UNSCORED and self.criterion != _DEFAULT_CRITERION:
            what = f"granularity '{self.granularity}' goes by {_UNSCORED[self.granularity]}"
            raise ValueError(f"prune.criterion '{self.criterion}' scores channels or weights, and {what}: leave it out")
        if self.granularity == "weights" and self.criterion in _OF_CHANNELS:
            what = "take 'l1', 'lamp', 'taylor', 'hessian', 'learned' or 'random'"
            raise ValueError(f"prune.criterion '{self.criterion}' does not rank single weights: {what}")

    def _check_learned(self) -> None:
        if self.scope == "sensitivity":
            raise ValueError("prune.criterion 'learned' needs widths that its scores do not change: take another scope")
        if self.granularity not in ("channels", "weights"):
            raise ValueError("prune.criterion 'learned' scores channels or weights: set granularity to one of these")
        if self.schedule != "one_shot":
            raise ValueError("prune.criterion 'learned' scores the dense network, for schedule 'one_shot'")
        if self.target_latency_ms is not None:
            raise ValueError("prune.criterion 'learned' needs widths that are the same each time: use target_macs")
