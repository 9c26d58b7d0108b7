"""A custom task: the user's callables, with what they return checked and what they raise said in one line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from devices.engines.base import FloatArray, Outputs
from devices.errors import EspalierError, RecipeError
from devices.scoring import Scores, Scoring
from exporters.parity import Agreement
from pipeline.factory import load_factory, said_of
from pipeline.recipe import TaskConfig
from pipeline.recipe.task import CALLABLES
from pipeline.tasks.base import Task


@dataclass(frozen=True)
class Custom(Task):
    """Outputs and targets whose meaning is the user's. Every method raises `RecipeError` that names the callable."""

    config: TaskConfig

    def __post_init__(self) -> None:
        """Raises `RecipeError` when a callable is not there, before anything is trained."""
        for name in CALLABLES:
            if getattr(self.config, name) is not None:
                load_factory(getattr(self.config, name), f"task.{name}")

    @property
    def scoring(self) -> Scoring:
        return Scoring(kind="custom")

    def loss(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        found = self._call("loss", outputs, targets)
        if not isinstance(found, torch.Tensor) or found.numel() != 1:
            raise RecipeError(
                "task.loss", f"returns {_shown(found)}", "It must return the mean loss of the batch, a tensor of one"
            )
        return found.reshape(())

    def summed_loss(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        """The mean: attacks go by the signs of its gradients alone."""
        return self.loss(outputs, targets)

    def sample_losses(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        rows = []
        for index in range(len(targets)):
            # A batch's mean knows no samples: each is shown alone.
            own = slice(index, index + 1)
            alone = tuple(part[own] for part in outputs) if isinstance(outputs, tuple) else outputs[own]
            rows.append(self.loss(alone, targets[own]))
        return torch.stack(rows)

    def scores(self, outputs: tuple[FloatArray, ...], targets: NDArray[Any]) -> Scores:
        found = self._call("score", outputs if len(outputs) > 1 else outputs[0], targets)
        values = np.asarray(found)
        if values.shape != (len(targets),) or values.dtype.kind not in "biuf":
            what = f"returns {_shown(found)} for {len(targets)} samples"
            raise RecipeError("task.score", what, "It must return a number from 0 to 1 for each, (N,)")
        # Written so that "not a number" fails too.
        if values.size and not (values.min() >= 0 and values.max() <= 1):
            raise RecipeError("task.score", f"goes from {values.min()} to {values.max()}", "It must be from 0 to 1")
        return Scores(values.astype(np.float64))

    @property
    def agreement(self) -> Agreement | None:
        return None if self.config.compare is None else self._compare

    def _compare(self, reference: Outputs, candidate: Outputs) -> float:
        found = self._call("compare", reference, candidate)
        value = np.asarray(found)
        if value.size != 1 or value.dtype.kind not in "biuf" or not 0 <= float(value.reshape(())) <= 1:
            raise RecipeError("task.compare", f"returns {_shown(found)}", "It must return one number from 0 to 1")
        return float(value.reshape(()))

    def _call(self, name: str, *arguments: Any) -> Any:
        field, reference = f"task.{name}", getattr(self.config, name)
        try:
            return load_factory(reference, field)(*arguments)
        except EspalierError:
            raise
        # A user's function may raise anything.
        except Exception as cause:
            said = f"'{reference.rpartition(':')[2]}' raised {said_of(cause)}"
            raise RecipeError(field, said, "Mend it") from cause


def _shown(found: Any) -> str:
    if isinstance(found, (np.ndarray, torch.Tensor)) and found.ndim:
        return f"shape {tuple(found.shape)}"
    return f"{found!r:.40}"
