"""How much of a query attack's time is the attack's own code, on engines: `python -m tests.benchmarks.square_engine`.

Square asks every engine of a run in the store about the images of the run's sets. An engine's share is what it takes
itself, in processor time of one thread; all else is the attack's own.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from devices.detect import detect_host
from devices.engine_files import read_engine
from devices.engines.base import FloatArray
from devices.engines.select import open_engine
from devices.queries.square import SquareConfig, square
from tests.benchmarks.cpu import stored_engines

ROOT = Path(__file__).parent.parent.parent


def asked(engine: Path, images: FloatArray, labels: NDArray[np.int64], config: SquareConfig) -> str:
    """Attack an engine; a line of what it took."""
    opened = open_engine(*read_engine(engine), detect_host())
    engine_s = images_asked = 0.0

    def run(images_NCHW: FloatArray) -> FloatArray:
        nonlocal engine_s, images_asked
        started = time.process_time()
        logits = opened.run(images_NCHW)
        engine_s += time.process_time() - started
        images_asked += len(images_NCHW)
        return logits

    run(images)
    engine_s = images_asked = 0.0
    started = time.process_time()
    found = square(run, images, labels, config)
    whole_s = time.process_time() - started
    right = np.mean(opened.run(found.images_NCHW).argmax(axis=1) == labels)
    return (
        f"{100 * right:5.1f} % right, {images_asked:.0f} images asked in {whole_s:.2f} s, the engine "
        f"{1e6 * engine_s / images_asked:.1f} µs an image, the attack {1e6 * (whole_s - engine_s) / images_asked:.1f}: "
        f"{100 * (1 - engine_s / whole_s):.1f} % its own"
    )


def main() -> None:
    """Attack each engine of each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="*", default=[ROOT / "runs" / "digits-cpu"])
    parser.add_argument("--store", type=Path, default=ROOT / ".espalier" / "store")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--epsilon", type=float, default=0.1, help="in Linf (0.1)")
    options = parser.parse_args()
    config = SquareConfig(epsilon=options.epsilon, queries=options.queries)
    for run in options.runs:
        sets = run / "evidence" / "sets"
        images = np.load(sets / "clean.npy", allow_pickle=False)[: options.samples]
        labels = np.load(sets / "labels.npy", allow_pickle=False)[: options.samples]
        for name, engine in stored_engines(run, options.store).items():
            print(f"{run.name:28} {name:16} {asked(engine, images, labels, config)}", flush=True)


if __name__ == "__main__":
    main()
