"""What a fit tells about itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """One training or recovery, from its first epoch on, however often it was taken up again."""

    loss_by_epoch: tuple[float, ...]
    """Mean over the batches, distillation included."""
    validation_accuracy_by_epoch: tuple[float, ...]
    """Share of validation images right, 0 to 1, attacked where an adversary is watched; empty without validation."""
    clean_validation_accuracy_by_epoch: tuple[float, ...]
    """The same on clean images, where the other is on attacked ones; else empty."""
    epochs_run: int
    stopped_early: bool
    best_epoch: int | None
    """Counted from 1: whose weights the network has; None without validation: those of the last."""
    resumed_from_epoch: int
    """Last epoch that a checkpoint spared this process; 0 when it began at the start. Decides nothing."""
    accelerator: str
    precision: str
    devices: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def metrics(self) -> dict[str, Any]:
        """For JSON, without what a kill in between changes."""
        return {name: value for name, value in self.as_dict().items() if name != "resumed_from_epoch"}

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> FitReport:
        """Read back what `as_dict` gave."""
        lists = ("loss_by_epoch", "validation_accuracy_by_epoch", "clean_validation_accuracy_by_epoch")
        return FitReport(**{**raw, **{name: tuple(raw[name]) for name in lists}})
