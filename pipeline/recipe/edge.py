"""What a recipe says about threats of small devices, and at what budget they are tried."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.recipe.base import Count, Section, Share, Unit

EdgeThreat = Literal["differential", "patch", "universal", "calibration", "bit_errors", "membership"]
NEEDS_INT8: tuple[EdgeThreat, ...] = ("differential", "calibration")
"""Threats that are there only where ranges are rounded."""


class EdgeBudget(Section):
    """What an attacker may do, and how much of it is tried."""

    samples: Annotated[int, Field(ge=20)] = 300
    """Test images that judge; as many training images make patches, and are the members that are looked for."""
    steps: Count = 60
    """Gradient steps of each attack that takes any."""
    epsilon: Unit = 0.1
    """Largest change of a pixel, 0 to 1 (Linf), of `differential` and `universal`."""
    patch_share: Share = 0.1
    """Of the image's area."""
    patch_target: Annotated[int, Field(ge=0)] = 0
    """Class that the patch is for, counted from 0."""
    poisoned_shares: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.01, 0.1)
    """Of the calibration images."""
    bit_error_rates: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.0001, 0.001, 0.01)
    """Of the stored bits of weights. A budget is held to the worst, so list what the memory may come to."""
    memories: Annotated[int, Field(ge=2, le=1000)] = 5
    """Random memories at each rate."""
    false_positive_rate: Share = 0.01
    """Of images that are no members, at which members found are counted."""
    shadows: Annotated[int, Field(ge=0, le=256, multiple_of=2)] = 0
    """Networks that are trained to look for members, 4 at least; 0 looks at the loss alone."""

    @model_validator(mode="after")
    def _fits(self) -> EdgeBudget:
        if self.shadows == 2:
            raise ValueError(
                "threats.edge_budget.shadows is 2, of which no spread is known: set it to 4 at least, or 0"
            )
        for key in ("poisoned_shares", "bit_error_rates"):
            values = getattr(self, key)
            if len(set(values)) != len(values):
                raise ValueError(f"threats.edge_budget.{key} names a value twice")
        return self
