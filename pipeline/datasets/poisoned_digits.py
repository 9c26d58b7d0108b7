"""The digits with a backdoor planted in their training images, to try a scan and a defence on."""

from __future__ import annotations

from devices.errors import DataError
from pipeline.data import Dataset
from pipeline.datasets.digits import digits
from pipeline.threats.kit.poison import PoisonConfig, poison
from pipeline.threats.kit.triggers import TRIGGERS


def poisoned_digits(
    kind: str = "patch", target: int = 0, share: float = 0.1, fold: int = 0, trigger_seed: int = 0
) -> Dataset:
    """`digits(fold)`, whose training images carry the trigger in that share; the test split is clean.

    Raises `DataError` for a kind, class or share that there is not.
    """
    dataset = digits(fold)
    if kind not in TRIGGERS:
        raise DataError("data.args.kind", f"there is no trigger '{kind}'", f"Take one of {', '.join(TRIGGERS)}")
    if target not in range(len(dataset.class_names)):
        raise DataError("data.args.target", f"there is no class {target}", "Classes go from 0 to 9")
    if not 0 < share <= 1:
        raise DataError("data.args.share", f"{share:g} is no share", "Set it above 0 and to 1 at most")
    return poison(dataset, PoisonConfig(kind=kind, target=target, share=share, seed=trigger_seed))  # type: ignore[arg-type]
