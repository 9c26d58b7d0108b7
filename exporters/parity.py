"""Parity at a border between two forms of one network: signal to noise, largest difference, agreement."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from devices.errors import ParityError

FloatArray = NDArray[np.float32]
_EXACT_SQNR_DB = 200.0


@dataclass(frozen=True, kw_only=True)
class ParityLimits:
    """What a border may cost."""

    min_sqnr_db: float
    """Signal-to-quantization-noise ratio of the logits, at least."""
    min_agreement: float
    """Share of samples with the same answer, at least."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What a border did cost, on `samples` real samples."""

    border: str
    sqnr_db: float
    """10 log10 of the reference's power over the difference's; 200 stands for equal."""
    max_abs_diff: float
    """Largest difference of a logit."""
    agreement: float
    """Share of samples with the same answer."""
    samples: int

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def compare(border: str, reference: FloatArray, candidate: FloatArray) -> Parity:
    """Compare logits (N, classes). Raises `ParityError` when shapes differ or a value is not finite."""
    if reference.shape != candidate.shape:
        raise ParityError(border, f"shapes differ: {reference.shape} and {candidate.shape}")
    for side, logits in (("before", reference), ("after", candidate)):
        if not np.isfinite(logits).all():
            raise ParityError(border, f"the network's answers {side} this step are not finite", "Check its weights")
    difference = candidate.astype(np.float64) - reference.astype(np.float64)
    noise, signal = float(np.sum(difference**2)), float(np.sum(reference.astype(np.float64) ** 2))
    sqnr_db = _EXACT_SQNR_DB if noise == 0 else 10 * math.log10(max(signal, 1e-30) / noise)
    return Parity(
        border=border,
        sqnr_db=min(sqnr_db, _EXACT_SQNR_DB),
        max_abs_diff=float(np.abs(difference).max()),
        agreement=float(np.mean(reference.argmax(axis=1) == candidate.argmax(axis=1))),
        samples=len(reference),
    )


def require(parity: Parity, limits: ParityLimits, hint: str) -> Parity:
    """Return `parity` when it is within the limits; raise `ParityError`, ending in `hint`, when it is not."""
    broken = []
    if parity.sqnr_db < limits.min_sqnr_db:
        broken.append(f"signal to noise is {parity.sqnr_db:.1f} dB, at least {limits.min_sqnr_db:g} dB is asked")
    if parity.agreement < limits.min_agreement:
        broken.append(
            f"{parity.agreement:.1%} of {parity.samples} samples get the same answer, "
            f"at least {limits.min_agreement:.1%} is asked"
        )
    if broken:
        raise ParityError(parity.border, "; ".join(broken), hint)
    return parity
