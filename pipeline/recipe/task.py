"""What a recipe says about the task: what the network's outputs mean, and how they are trained, scored and compared."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.recipe.base import Section

CALLABLES = ("loss", "score", "compare")


class TaskConfig(Section):
    """Classification, unless it says otherwise."""

    kind: Literal["classification", "segmentation", "detection", "custom"] = "classification"
    """`classification`: logits (N, classes), a label an image. `segmentation`: logits (N, classes, h, w), a mask
    (H, W) of labels an image. `detection`: probabilities (N, A, K), class 0 being background, and boxes (N, A, 4) as
    left, top, right, bottom in shares of the image; targets (N, M, 5) of class and box, class 0 for none. `custom`:
    outputs and targets of any form, with callables of your own."""
    ignore_label: Annotated[int, Field(ge=0, le=65_535)] = 255
    """Of `segmentation`: pixels with this label count nowhere."""
    outputs: tuple[str, ...] = ()
    """Of `detection` and `custom`: the outputs to keep, in this order, by name, of a network that returns them by name.
    Without it all tensors are kept, in the network's order."""
    loss: str | None = None
    """Of `custom`: `package.module:callable` or `path/to/file.py:callable`. Torch outputs and targets of a batch to
    their mean loss. Outputs are one tensor, or a tuple where the network has several."""
    score: str | None = None
    """Of `custom`: numpy outputs and targets of a batch to a number from 0 to 1 for each sample, (N,)."""
    compare: str | None = None
    """Of `custom`: numpy outputs of two forms of the network to how far they agree, 0 to 1. Without it, signal to
    noise alone decides whether a form is kept."""

    @model_validator(mode="after")
    def _callables(self) -> TaskConfig:
        if self.kind == "custom":
            missing = [name for name in ("loss", "score") if getattr(self, name) is None]
            if missing:
                raise ValueError(f"task.kind 'custom' needs task.{missing[0]}")
        else:
            own = CALLABLES if self.kind == "detection" else ("outputs", *CALLABLES)
            given = [name for name in own if getattr(self, name) not in (None, ())]
            if given:
                raise ValueError(f"task.{given[0]} is of kind 'custom', not '{self.kind}'")
        if self.kind != "segmentation" and self.ignore_label != 255:
            raise ValueError(f"task.ignore_label is of kind 'segmentation', not '{self.kind}'")
        if len(set(self.outputs)) != len(self.outputs):
            raise ValueError("task.outputs names an output twice")
        return self
