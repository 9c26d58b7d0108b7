"""Precision against accuracy and latency: `python -m tests.benchmarks.quantization`.

For digits, with DATA and WEIGHTS for ResNet-20 on CIFAR-10, and with the interpreter of an environment that has
`transformers` for a small ViT of random weights: every flavour and calibration, and the curve of mixed precision.
Latency is this CPU's at one thread, interleaved with FP32; FP16, BF16 and FP8 are for GPUs and have none here. Scales
come from training images, harm and budget are judged on others of them, accuracy is of test images.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import version_converter
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from devices.detect import detect_host
from devices.engines import onnxruntime
from devices.engines.base import Outputs
from devices.latency import LatencyConfig, measure_interleaved, measuring_alone, pinned
from devices.ship import decide_precision, ship_lines
from devices.statistics import Interval, bootstrap_ratio, paired_difference
from exporters.fp8 import convert_fp8
from exporters.half import HalfOptions, convert_half
from exporters.mixed import MixedConfig, choose_int8_layers
from exporters.mixed_choice import MixedChoice, mixed_lines
from exporters.onnx_export import export_onnx
from exporters.parity import ParityLimits
from exporters.quantize import convert_int8
from exporters.quantize_options import QuantizeOptions
from exporters.simplify import simplify_onnx
from pipeline.data import seeded_choice
from pipeline.datasets.digits import digits
from pipeline.datasets.image_folder import image_folder
from pipeline.zoo import residual_cnn
from tests.benchmarks.pruning import networks

ROOT = Path(__file__).parent.parent.parent
_ANY = ParityLimits(min_sqnr_db=-100.0, min_agreement=0.0)
_THREADS = 1
_CALIBRATION = 256
_JUDGE = 256
# Of the test images, chosen by seed.
_TEST = 2000
_Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network and its images."""

    name: str
    graph: Path
    calibration: _Array
    judge: _Array
    judge_labels: NDArray[np.int64]
    test: _Array
    labels: NDArray[np.int64] | None
    """None where weights are random and no answer is right."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One precision of one network."""

    name: str
    sqnr_db: float
    right: NDArray[np.bool_] | None
    on_cpu: Path | None
    """The graph, where this CPU is what it is for."""


def _digits(folder: Path) -> Subject:
    data = digits(fold=0)
    torch.manual_seed(0)
    network = residual_cnn(channels=32, blocks=2).train()
    images, labels = torch.from_numpy(data.train.batch(slice(None))), torch.from_numpy(data.train.labels)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(8):
        for part in torch.split(torch.randperm(len(images)), 64):
            optimizer.zero_grad()
            functional.cross_entropy(network(images[part]), labels[part]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return _subject("digits", network.eval(), data.train, data.test, folder)


def _cifar(folder: Path, archive: Path, weights: Path) -> Subject:
    data = image_folder(str(archive))
    network = networks.build("resnet20")
    network.get_submodule("network").load_state_dict(load_file(weights))
    return _subject("resnet20-cifar10", network.eval(), data.train, data.test, folder)


def _vit(folder: Path, python: Path) -> Subject:
    exported, graph = folder / "vit-exported.onnx", folder / "vit.onnx"
    subprocess.run([python, Path(__file__).with_name("quantization_vit.py"), exported], check=True, capture_output=True)
    images = np.random.default_rng(0).random((_CALIBRATION + _JUDGE + 256, 3, 32, 32), dtype=np.float32)
    simplify_onnx(exported, graph, images[:16], _ANY, _THREADS)
    parts = np.split(images, [_CALIBRATION, _CALIBRATION + _JUDGE])
    nothing = np.zeros(_JUDGE, np.int64)
    return Subject(
        name="vit", graph=graph, calibration=parts[0], judge=parts[1], judge_labels=nothing, test=parts[2], labels=None
    )


def _subject(name: str, network: nn.Module, train: Any, test: Any, folder: Path) -> Subject:
    chosen = seeded_choice(len(train), _CALIBRATION + _JUDGE, 0)
    calibration, judge = chosen[:_CALIBRATION], chosen[_CALIBRATION:]
    exported, graph = folder / f"{name}-exported.onnx", folder / f"{name}.onnx"
    export_onnx(network, train.batch(calibration[:16]), 20, exported, _ANY, _THREADS)
    simplify_onnx(exported, graph, train.batch(calibration[:16]), _ANY, _THREADS)
    some = seeded_choice(len(test), min(len(test), _TEST), 1)
    return Subject(
        name=name,
        graph=graph,
        calibration=train.batch(calibration),
        judge=train.batch(judge),
        judge_labels=train.labels[judge],
        test=test.batch(some),
        labels=test.labels[some],
    )


def _rows(subject: Subject, folder: Path, bits: int) -> list[Row]:
    """Every precision. The parity check sees the answers on all test images, and so they are scored there."""
    before: list[NDArray[np.bool_]] = []

    def convert(name: str, call: Callable[[Path, Callable[[Outputs, Outputs], float]], Any], on_cpu: bool) -> Row:
        after: list[NDArray[np.bool_]] = []

        def see(reference: Outputs, candidate: Outputs) -> float:
            if subject.labels is not None:
                before[:] = [np.asarray(reference).argmax(1) == subject.labels]
                after[:] = [np.asarray(candidate).argmax(1) == subject.labels]
            return 1.0

        target = folder / f"{subject.name}-{name.replace(' ', '-')}.onnx"
        parity = call(target, see).parity
        right = after[0] if after else None
        return Row(name=name, sqnr_db=parity.sqnr_db, right=right, on_cpu=target if on_cpu else None)

    def int8(name: str, flavour: Any, **options: Any) -> Row:
        chosen = QuantizeOptions(**options)
        width = bits if flavour == "unsigned" else 8
        given = subject.calibration, subject.test, flavour, width, _ANY, _THREADS
        return convert(name, lambda path, see: convert_int8(subject.graph, path, *given, see, chosen), True)

    rows = [
        int8("int8 unsigned minmax", "unsigned"),
        int8("int8 unsigned percentile 99.99", "unsigned", calibration="percentile"),
        int8("int8 unsigned percentile 99.9", "unsigned", calibration="percentile", percentile=99.9),
        int8("int8 unsigned entropy", "unsigned", calibration="entropy"),
        int8("int8 unsigned products", "unsigned", operators="products"),
        int8("int8 signed", "signed"),
        int8("int8 signed products", "signed", operators="products"),
        int8("int8 signed products percentile", "signed", operators="products", calibration="percentile"),
        int8("int8 signed products smooth 0.5", "signed", operators="products", smooth_strength=0.5),
    ]
    later = folder / f"{subject.name}-22.onnx"
    onnx.save(version_converter.convert_version(onnx.load(subject.graph), 22), later)
    for precision, source in (("fp16", subject.graph), ("bf16", later)):
        options = HalfOptions(precision=precision)  # type: ignore[arg-type]
        rows.append(
            convert(precision, lambda p, s, g=source, o=options: convert_half(g, p, subject.test, o, _ANY, 1, s), False)  # type: ignore[misc]
        )
    fp8 = subject.calibration, subject.test, _ANY, _THREADS
    rows.append(convert("fp8", lambda path, see: convert_fp8(subject.graph, path, *fp8, see), False))
    return [Row(name="fp32", sqnr_db=200.0, right=before[0] if before else None, on_cpu=subject.graph), *rows]


def _times_as_fast(graphs: Mapping[str, Path], folder: Path, duration_s: float) -> dict[str, Interval]:
    """How many times as fast as `fp32` each is, interleaved; `fp32` itself is opened a second time."""
    host = detect_host()
    options = onnxruntime.OrtOptions(provider="CPUExecutionProvider", threads=_THREADS)
    queries = {}
    for index, (name, path) in enumerate([*graphs.items(), ("fp32 again", graphs["fp32"])]):
        place = folder / f"engine-{index}.onnx"
        info = onnxruntime.build(path, place, options, host)
        engine = onnxruntime.open_engine(place.read_bytes(), info, host)
        queries[name] = engine.bind(np.random.default_rng(0).random((1, *info.input_shape), dtype=np.float32))
    with measuring_alone(lambda: None), pinned(_THREADS):
        samples = measure_interleaved(queries, LatencyConfig(duration_s=duration_s))
    return {name: bootstrap_ratio(samples["fp32"], rows, 1000, 0) for name, rows in samples.items()}


def _choose(subject: Subject, bits: int) -> MixedChoice:
    """Ordered by harm alone, so that the curve is the accuracy's."""

    def score(outputs: Outputs) -> float:
        return float((np.asarray(outputs).argmax(1) == subject.judge_labels).mean())

    options = QuantizeOptions()
    config = MixedConfig(min_sqnr_db=30.0)
    images = subject.calibration, subject.judge
    used = score if subject.labels is not None else None
    return choose_int8_layers(subject.graph, *images, "unsigned", bits, config, _THREADS, options, score=used)


def _curve(subject: Subject, choice: MixedChoice, folder: Path, bits: int) -> tuple[list[Row], dict[str, Path]]:
    """Accuracy with the first so many layers of the order kept in FP32."""
    order = [harm.layer for harm in choice.harms]
    counts = sorted({0, 1, 2, 3, 4, 6, 8, 12, 16} & set(range(len(order))))
    rows = []
    for count in counts:
        found: list[NDArray[np.bool_]] = []

        def see(_: Outputs, candidate: Outputs, found: list[NDArray[np.bool_]] = found) -> float:
            if subject.labels is not None:
                found[:] = [np.asarray(candidate).argmax(1) == subject.labels]
            return 1.0

        path = folder / f"{subject.name}-kept-{count}.onnx"
        options = QuantizeOptions(keep=tuple(order[:count]))
        given = subject.calibration, subject.test, "unsigned", bits, _ANY, _THREADS
        done = convert_int8(subject.graph, path, *given, see, options)  # type: ignore[arg-type]
        right = found[0] if found else None
        rows.append(Row(name=f"{count} kept", sqnr_db=done.parity.sqnr_db, right=right, on_cpu=path))
    return rows, {row.name: row.on_cpu for row in rows if row.on_cpu}


def _print(rows: list[Row], reference: Row, ratios: Mapping[str, Interval]) -> list[dict[str, object]]:
    table = []
    for row in rows:
        line = f"{row.name:34} {row.sqnr_db:6.1f} dB"
        entry: dict[str, object] = {"name": row.name, "sqnr_db": row.sqnr_db}
        if row.right is not None and reference.right is not None:
            lost = paired_difference(reference.right, row.right)
            entry |= {"accuracy": float(row.right.mean()), "points": [100 * lost.low, 100 * lost.high]}
            line += f"  {100 * row.right.mean():6.2f} % ({100 * lost.low:+.2f} to {100 * lost.high:+.2f} points)"
        if row.name in ratios:
            ratio = ratios[row.name]
            entry["times_as_fast"] = ratio.as_dict()
            line += f"  {ratio.value:.2f} times as fast as FP32 ({ratio.low:.2f} to {ratio.high:.2f})"
        print(line, flush=True)
        table.append(entry)
    return table


def _run(subject: Subject, folder: Path, duration_s: float) -> dict[str, object]:
    bits = 7 if detect_host().saturates_int8 else 8
    print(f"\n{subject.name}: {len(subject.test)} test images, weights of {bits} bits where unsigned")
    rows = _rows(subject, folder, bits)
    ratios = _times_as_fast({row.name: row.on_cpu for row in rows if row.on_cpu}, folder, duration_s)
    table = _print(rows, rows[0], ratios)
    print(*ship_lines(decide_precision("int8 unsigned minmax", {"fp32": ratios["int8 unsigned minmax"]})), sep="\n")
    again = ratios["fp32 again"]
    print(f"fp32 against itself: {again.value:.3f} ({again.low:.3f} to {again.high:.3f})")
    choice = _choose(subject, bits)
    print("\n".join(mixed_lines(choice)))
    kept, graphs = _curve(subject, choice, folder, bits)
    curve = _print(kept, rows[0], _times_as_fast({"fp32": subject.graph, **graphs}, folder, duration_s))
    return {"rows": table, "mixed": choice.as_dict(), "curve": curve}


def main() -> None:
    """Run what is asked for, print the tables, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench-quantization")
    parser.add_argument("--data", type=Path, help="archive of CIFAR-10 images in class folders")
    parser.add_argument("--weights", type=Path, help="safetensors of ResNet-20")
    parser.add_argument("--peer", type=Path, help="interpreter of an environment with transformers")
    parser.add_argument("--duration", type=float, default=20.0, metavar="SECONDS", help="of each set of timings")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(_THREADS)
    subjects = [_digits(given.out)]
    if given.peer:
        subjects.append(_vit(given.out, given.peer))
    if given.data and given.weights:
        subjects.append(_cifar(given.out, given.data, given.weights))
    found = {subject.name: _run(subject, given.out, given.duration) for subject in subjects}
    (given.out / "quantization.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
