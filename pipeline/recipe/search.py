"""What a recipe says about the genetic search for widths."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.recipe.base import Count, Section, Share

Figure = Literal["accuracy", "loss", "robust_accuracy", "macs", "parameters", "size_bytes", "latency_ms"]
_POINT = re.compile(r"nearest|trial-(0|[1-9][0-9]*)")


class SearchConfig(Section):
    """NSGA-II (Deb et al. 2002) over the share that each group keeps."""

    trials: Annotated[int, Field(ge=4)] = 64
    """Points that are tried, each another one. Up to half of the first population keep one share in every group."""
    population: Annotated[int, Field(ge=2)] = 8
    """Trials of one generation: they run at once, and the next is bred from the best so far."""
    objectives: Annotated[tuple[Figure, ...], Field(min_length=2)] = ("accuracy", "macs")
    """`accuracy` or `loss` on a validation split after BatchNorm recalibration; `robust_accuracy`, the same under the
    attack of [objective]; `macs`; `parameters`; `size_bytes` of the weights in the precision that ships;
    `latency_ms` of the engine on this device. Accuracy is the mean over images of the task's
    score: right or wrong; the share of pixels that are right; average precision within the image; or that of a custom
    task. One whose name ends in `accuracy` is to be high, every other is to be low."""
    validation_samples: Count = 1000
    """Training images set aside to judge trials by, half of them at most; the test split is not touched."""
    min_keep: Share = 0.125
    """Least share of its width that a group keeps in a trial."""
    workers: Count = 1
    """Trials at once, by Ray; one alone on this machine runs without it. Latency is measured one at a time all the
    same."""
    address: str | None = None
    """Address of a Ray cluster; without it, workers are processes on this machine."""
    choose: str = "nearest"
    """Point that is pruned to: its name, such as `trial-17`, or `nearest`: the most accurate one within the target of
    [prune]."""

    @model_validator(mode="after")
    def _distinct(self) -> SearchConfig:
        if len(set(self.objectives)) != len(self.objectives):
            raise ValueError("search.objectives names an objective twice")
        if self.population > self.trials:
            raise ValueError("search.population is above search.trials")
        if not _POINT.fullmatch(self.choose):
            raise ValueError("search.choose is 'nearest', or a point such as 'trial-17'")
        return self
