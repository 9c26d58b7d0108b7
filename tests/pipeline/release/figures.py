"""Figures of runs that were never run, for the gate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from devices.statistics import Interval
from pipeline.release.evidence import Asked, RunFigures

SAMPLES = {"clean.npy": "1" * 64, "labels.npy": "2" * 64}


def scores(right: int, of: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """So many right answers first, wrong ones after."""
    return np.arange(of) < right


def figures(**changes: Any) -> RunFigures:
    """A run with 900 of 1,000 right, 800 under attack, 1.5 times as fast as its baseline."""
    run = RunFigures(
        folder="runs/digits-cpu",
        name="digits",
        device="cpu",
        task="classification",
        engine="compressed-int8",
        baseline="dense-fp32",
        budgets=(),
        samples=SAMPLES,
        attacks=("fgsm through dense within 0.1 linf", "pgd through dense within 0.1 linf"),
        clean=scores(900, 1000),
        robust=scores(800, 1000),
        size_bytes=1000,
        speedup=Interval(1.5, 1.49, 1.51),
        measured=True,
    )
    return replace(run, **changes)


def asked(**changes: Any) -> Asked:
    """A budget that is met."""
    budget = Asked(
        name="max_size_bytes", text="size of the engine", unit="bytes", limit=2000, value=1000, low=1000, high=1000
    )
    return replace(budget, **changes)
