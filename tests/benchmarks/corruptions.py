"""How many images a second each corruption takes: `python -m tests.benchmarks.corruptions [SIDE] [IMAGES]`."""

from __future__ import annotations

import sys
import time

import numpy as np

from pipeline.corruptions.select import METHODS, STRENGTHS, corrupt


def main() -> None:
    """One line for each corruption: images a second, mean over strengths, colour images of SIDE pixels a side."""
    side, count = (int(text) for text in [*sys.argv[1:], *("32", "200")[len(sys.argv) - 1 :]])
    images = np.random.default_rng(0).random((count, 3, side, side)).astype(np.float32)
    for method in METHODS:
        started = time.perf_counter()
        for strength in STRENGTHS:
            corrupt(images, method, strength, 0)
        seconds = time.perf_counter() - started
        print(f"{method:18} {len(STRENGTHS) * count / seconds:12,.0f} images a second")


if __name__ == "__main__":
    main()
