"""Settings of torch for one stage, put back afterwards: seed, threads, determinism."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derived_seed(*numbers: int) -> int:
    """A seed of 63 bits of its own for each row of numbers, such as recipe seed, epoch and process."""
    # With their count, because a seed sequence is the same when zeros follow.
    return int(np.random.SeedSequence([len(numbers), *numbers]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_all(seed: int) -> None:
    """Seed every random source that a user's network may draw from, on every device."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed every random source that a user's network may draw from. The process's own states come back."""
    numpy_before, python_before = np.random.get_state(), random.getstate()
    # A GPU that nobody has used yet is not woken up for it.
    gpus = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=gpus):
        seed_all(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_before)
            random.setstate(python_before)


@contextmanager
def deterministic(seed: int, threads: int, exact: bool = True) -> Iterator[torch.Generator]:
    """Run torch on so many threads with every random source seeded; yields a generator of its own, on the CPU.

    The same seed and thread count give the same bits on the same kind of CPU. The process's own settings come back.
    Without `exact`, an operation that has no deterministic form runs all the same: some have none on a GPU.
    """
    threads_before = torch.get_num_threads()
    mode_before = torch.get_deterministic_debug_mode()
    filled_before = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    with seeded(seed), warnings.catch_warnings():
        if not exact:
            warnings.filterwarnings("ignore", message="(?s).*determinis", category=UserWarning)
        try:
            torch.set_num_threads(threads)
            # `use_deterministic_algorithms` does the same, but loads the compiler, which takes seconds.
            torch.set_deterministic_debug_mode("error" if exact else "warn")
            # Only what reads memory before it is written would see it, and the writing costs 6 % of a training step.
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            yield torch.Generator().manual_seed(seed)
        finally:
            torch.set_num_threads(threads_before)
            torch.set_deterministic_debug_mode(mode_before)
            torch.utils.deterministic.fill_uninitialized_memory = filled_before  # type: ignore[attr-defined]
