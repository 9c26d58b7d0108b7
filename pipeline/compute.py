"""Settings of torch for one stage, put back afterwards: seed, threads, determinism."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed every random source that a user's network may draw from. The process's own states come back."""
    numpy_before, python_before = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_before)
            random.setstate(python_before)


@contextmanager
def deterministic(seed: int, threads: int) -> Iterator[torch.Generator]:
    """Run torch on so many threads with every random source seeded; yields a generator of its own.

    The same seed and thread count give the same bits on the same kind of CPU. The process's own settings come back.
    """
    threads_before = torch.get_num_threads()
    strict_before = torch.are_deterministic_algorithms_enabled()
    warn_before = torch.is_deterministic_algorithms_warn_only_enabled()
    with seeded(seed):
        try:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(True)
            yield torch.Generator().manual_seed(seed)
        finally:
            torch.set_num_threads(threads_before)
            torch.use_deterministic_algorithms(strict_before, warn_only=warn_before)
