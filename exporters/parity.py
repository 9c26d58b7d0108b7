"""Parity at a border between two forms of one network: signal to noise, largest difference, agreement."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from devices.engines.base import FloatArray, Outputs
from devices.errors import ParityError
from devices.scoring import as_tuple, same_classes

Agreement = Callable[[Outputs, Outputs], float]
"""How far the answers of two forms agree, 0 to 1: for classes, the share of samples or pixels with the same one."""
_EXACT_SQNR_DB = 200.0


@dataclass(frozen=True, kw_only=True)
class ParityLimits:
    """What a border may cost."""

    min_sqnr_db: float
    """Signal-to-quantization-noise ratio of the outputs, at least; the worst output counts."""
    min_agreement: float
    """Share of answers that are the same, at least."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What a border did cost, on `samples` real samples."""

    border: str
    sqnr_db: float
    """10 log10 of the reference's power over the difference's; 200 stands for equal."""
    max_abs_diff: float
    """Largest difference of an output's value, such as a logit."""
    agreement: float | None
    """Share of answers that are the same; None where nothing tells answers apart."""
    samples: int

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def compare(border: str, reference: Outputs, candidate: Outputs, agreement: Agreement | None = same_classes) -> Parity:
    """Compare outputs, each (N, ...); of several, the one that suffers most decides.

    Without `agreement`, signal to noise alone does. Raises `ParityError` when shapes differ or a value is not finite.
    """
    before, after = as_tuple(reference), as_tuple(candidate)
    shapes = [array.shape for array in before], [array.shape for array in after]
    if shapes[0] != shapes[1]:
        raise ParityError(border, f"shapes differ: {_listed(shapes[0])} and {_listed(shapes[1])}")
    for side, outputs in (("before", before), ("after", after)):
        if not all(np.isfinite(array).all() for array in outputs):
            raise ParityError(border, f"the network's answers {side} this step are not finite", "Check its weights")
    return Parity(
        border=border,
        sqnr_db=min(_sqnr_db(old, new) for old, new in zip(before, after, strict=True)),
        max_abs_diff=max(float(np.abs(_difference(old, new)).max()) for old, new in zip(before, after, strict=True)),
        agreement=None if agreement is None else float(agreement(_plain(before), _plain(after))),
        samples=len(before[0]),
    )


def _plain(outputs: tuple[FloatArray, ...]) -> Outputs:
    return outputs if len(outputs) > 1 else outputs[0]


def _sqnr_db(reference: FloatArray, candidate: FloatArray) -> float:
    noise = float(np.sum(_difference(reference, candidate) ** 2))
    signal = float(np.sum(reference.astype(np.float64) ** 2))
    sqnr_db = _EXACT_SQNR_DB if noise == 0 else 10 * math.log10(max(signal, 1e-30) / noise)
    return min(sqnr_db, _EXACT_SQNR_DB)


def _difference(reference: FloatArray, candidate: FloatArray) -> NDArray[np.float64]:
    return np.asarray(candidate.astype(np.float64) - reference.astype(np.float64))


def _listed(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes))


def require(parity: Parity, limits: ParityLimits, hint: str) -> Parity:
    """Return `parity` when it is within the limits; raise `ParityError`, ending in `hint`, when it is not."""
    broken = []
    if parity.sqnr_db < limits.min_sqnr_db:
        broken.append(f"signal to noise is {parity.sqnr_db:.1f} dB, at least {limits.min_sqnr_db:g} dB is asked")
    if parity.agreement is not None and parity.agreement < limits.min_agreement:
        broken.append(
            f"{parity.agreement:.1%} of the answers on {parity.samples} samples are the same, "
            f"at least {limits.min_agreement:.1%} is asked"
        )
    if broken:
        raise ParityError(parity.border, "; ".join(broken), hint)
    return parity
