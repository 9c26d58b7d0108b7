"""Random bit errors in stored weights, as of worn flash, low voltage or radiation."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from devices.engines.onnxruntime import open_reference
from devices.errors import ModelError
from devices.scoring import as_tuple
from devices.stage import Progress, no_progress
from pipeline.data import Split
from pipeline.threats.edge.intervals import crossed_mean
from pipeline.threats.edge.record import Change, Figure, Threat
from pipeline.threats.edge.subject import Subject, befores, right_of

_WEIGHTS = ("float32", "float16", "int8", "uint8")
_LEAST_AXES = 2


@dataclass(frozen=True, kw_only=True)
class BitErrorConfig:
    """Memories that are tried."""

    rates: tuple[float, ...] = (1e-4, 1e-3, 1e-2)
    """Share of stored bits that are wrong, each by itself."""
    memories: int = 5
    """Random memories at each rate, 2 at least."""
    threads: int = 1
    seed: int = 0


def flip_bits(values: NDArray[Any], rate: float, generator: np.random.Generator) -> NDArray[Any]:
    """A copy in which each bit is turned with this probability, independently (Stutz et al. 2021).

    `rate` is above 0 and at most 1.
    """
    content = np.frombuffer(values.tobytes(), dtype=np.uint8).copy()
    bits = 8 * content.size
    # Gaps between wrong bits are geometric, so what is drawn is as much as what is wrong.
    places = np.empty(0, dtype=np.int64)
    reached = -1
    while reached < bits:
        gaps = generator.geometric(rate, size=max(16, int(1.1 * rate * bits)))
        more = reached + np.cumsum(gaps)
        places, reached = np.concatenate([places, more]), int(more[-1])
    places = places[places < bits]
    np.bitwise_xor.at(content, places // 8, (1 << (places % 8)).astype(np.uint8))
    return np.frombuffer(content.tobytes(), dtype=values.dtype).reshape(values.shape)


def weights_of(model: onnx.ModelProto, where: str) -> list[onnx.TensorProto]:
    """Stored weights of a graph: its constants of two axes or more. Raises `ModelError` when there are none."""
    found = [
        tensor
        for tensor in model.graph.initializer
        if len(tensor.dims) >= _LEAST_AXES and numpy_helper.to_array(tensor).dtype.name in _WEIGHTS
    ]
    if not found:
        raise ModelError(where, "stores no weights that bit errors could reach", "Take bit_errors out")
    return found


def with_bit_errors(model: onnx.ModelProto, rate: float, seed: int, where: str) -> onnx.ModelProto:
    """A copy of a graph whose weights have bit errors. Biases, scales and zero points keep their bits."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    generator = np.random.default_rng(seed)
    for tensor in weights_of(copy, where):
        wrong = flip_bits(numpy_helper.to_array(tensor), rate, generator)
        tensor.CopyFrom(numpy_helper.from_array(wrong, tensor.name))
    return copy


def bit_errors(
    subjects: Sequence[Subject], judged: Split, config: BitErrorConfig, progress: Progress = no_progress
) -> Threat:
    """Accuracy lost by rate, of the graph that each engine was built from; the first subject is the one before.

    The engine itself holds its weights in an order of its own, and may not load with wrong ones.
    """
    figures: list[Figure] = []
    names = [subject.name for subject in subjects]
    found: dict[tuple[str, float], NDArray[np.float64]] = {}
    for index, subject in enumerate(subjects):
        model = onnx.load(subject.onnx_path)
        bits = sum(8 * numpy_helper.to_array(item).nbytes for item in weights_of(model, str(subject.onnx_path)))
        whole = _right(model, subject, judged, config.threads)
        for number, rate in enumerate(config.rates):
            progress(index * len(config.rates) + number, len(subjects) * len(config.rates), subject.name)
            seeds = [_seed(config.seed, number, memory) for memory in range(config.memories)]
            broken = (with_bit_errors(model, rate, seed, str(subject.onnx_path)) for seed in seeds)
            lost = whole - np.stack([_right(item, subject, judged, config.threads) for item in broken])
            changes = [Change(names[at], crossed_mean(lost - found[names[at], rate])) for at in befores(names, index)]
            found[subject.name, rate] = lost
            figures.append(
                Figure(
                    artifact=subject.name,
                    setting=f"rate {rate:g}, about {rate * bits:,.0f} of {bits:,} bits",
                    measure="accuracy lost",
                    interval=crossed_mean(lost),
                    samples=len(judged),
                    changes=tuple(changes),
                )
            )
    return Threat(
        name="bit_errors",
        tried="Each stored bit of the weights is wrong with the same probability",
        budget=f"rates {', '.join(f'{rate:g}' for rate in config.rates)}; {config.memories} memories each",
        figures=tuple(figures),
        not_shown=(
            "Intervals are over memories and images; with few memories they are wide.",
            "Bits that an attacker chooses (Rakin et al. 2019) do far more than random ones.",
            "Biases, scales and zero points keep their bits; so do code and activations.",
        ),
        of="graph",
    )


def _seed(seed: int, rate: int, memory: int) -> int:
    """Of its own for every rate and memory, and the same for every artifact."""
    return int(np.random.SeedSequence([seed, rate, memory]).generate_state(1)[0])


def _right(model: onnx.ModelProto, subject: Subject, judged: Split, threads: int) -> NDArray[np.float64]:
    """1 for each image that is answered right, (N,)."""
    with tempfile.TemporaryDirectory(prefix="espalier-bits-") as scratch:
        path = Path(scratch, "model.onnx")
        onnx.save(model, path)
        run = open_reference(path, threads)
        answering = Subject(subject.name, lambda images: as_tuple(run(images))[0], subject.network, path)
        return right_of(answering, judged).astype(np.float64)
