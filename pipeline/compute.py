"""Settings of torch for one stage, put back afterwards: seed, threads, determinism."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def deterministic(seed: int, threads: int) -> Iterator[torch.Generator]:
    """Run torch on so many threads with every random source seeded; yields a generator of its own.

    The same seed and thread count give the same bits on the same kind of CPU. The process's own settings come back.
    """
    threads_before = torch.get_num_threads()
    strict_before = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True)
        try:
            yield torch.Generator().manual_seed(seed)
        finally:
            torch.set_num_threads(threads_before)
            torch.use_deterministic_algorithms(strict_before)
