"""What a recipe says about threats: signs of a backdoor, and what small devices meet."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.recipe.base import Count, Section
from pipeline.recipe.edge import EdgeBudget, EdgeThreat

ScanMethod = Literal["inversion", "warping", "sensitivity", "stages", "clustering"]


class ThreatsConfig(Section):
    """Signs of a backdoor that are looked for, on every network of the run and on what it rounds to in INT8."""

    scan: tuple[ScanMethod, ...] = ()
    """`inversion`: the smallest patch that turns images into each class. `warping`: the smallest warp. `sensitivity`:
    what clean images become when neurons change. `stages`: each network against the one before, by its patches.
    `clustering`: of the training images, for who trusts the network."""
    samples: Count = 32
    """Clean test images that are looked at."""
    inversion_steps: Count = 150
    """Gradient steps for each class' trigger: two fifths from each of eight starts of a patch or four of a warp, the
    rest from the best of them."""
    references: Annotated[int, Field(ge=0, le=100)] = 0
    """Networks of the same factory, trained on the other clean test images, that say what is usual."""
    false_alarm_rate: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Of each test on a clean network, at most, as far as the test's assumptions hold."""
    edge: tuple[EdgeThreat, ...] = ()
    """Threats that every engine of the run is tried with."""
    edge_budget: EdgeBudget = EdgeBudget()

    @model_validator(mode="after")
    def _fits(self) -> ThreatsConfig:
        if len(set(self.scan)) != len(self.scan):
            raise ValueError("threats.scan names a method twice")
        if len(set(self.edge)) != len(self.edge):
            raise ValueError("threats.edge names a threat twice")
        if "stages" in self.scan and "inversion" not in self.scan:
            raise ValueError("threats.scan = 'stages' compares triggers: add 'inversion'")
        return self
