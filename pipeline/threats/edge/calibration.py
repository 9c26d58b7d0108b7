"""Poisoned calibration sets: some of the images that set INT8's ranges come from an attacker."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from devices.engines.onnxruntime import open_reference
from devices.profile import Activations
from devices.scoring import as_tuple, same_classes
from devices.stage import Progress, no_progress
from devices.statistics import paired_difference, paired_score_difference
from exporters.parity import ParityLimits, compare
from exporters.quantize import calibrate_graph, int8_graph
from exporters.quantize_options import Calibration, QuantizeOptions
from pipeline.data import Split
from pipeline.threats.edge.record import Change, Figure, Role, Threat, share_text
from pipeline.threats.edge.subject import Subject, right_of
from pipeline.threats.fake_quant import layers_of

Aim = Literal["peaks", "mass"]
CALIBRATIONS: tuple[Calibration, ...] = ("minmax", "percentile", "entropy")
_AIMS: dict[Aim, str] = {
    "peaks": "few values far out (aims at min and max)",
    "mass": "most values far out (knows that a percentile is taken)",
}
_START = 0.5


@dataclass(frozen=True, kw_only=True)
class PoisonedConfig:
    """Budget of the attacker, and how the graph is quantized."""

    shares: tuple[float, ...] = (0.01, 0.1)
    """Of the calibration images, that are the attacker's."""
    steps: int = 60
    """Gradient steps that make a poisoned image."""
    activations: Activations
    weight_bits: int
    options: QuantizeOptions
    """As the recipe's; `calibration` says which method a budget is held to."""
    kept: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Layers that stay in higher precision, by the INT8 engine's name."""
    limits: ParityLimits
    """What the chain's border allows: a graph beyond it never ships."""
    threads: int = 1
    seed: int = 0
    calibrations: tuple[Calibration, ...] = CALIBRATIONS


def poisoned_images(
    network: nn.Module, like_NCHW: NDArray[np.float32], aim: Aim, steps: int, seed: int
) -> NDArray[np.float32]:
    """Images (N, C, H, W), 0 to 1, as many and as large as those given, that drive a network's values far out.

    `peaks` climbs the logarithm of each layer's largest magnitude, `mass` that of its mean magnitude, averaged over
    layers. Nothing but the range 0 to 1 holds them: they need not look like anything.
    """
    generator = torch.Generator().manual_seed(seed)
    images = (torch.rand(like_NCHW.shape, generator=generator) < _START).float()
    seen: list[torch.Tensor] = []

    def note(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        sizes = output.flatten(1).abs()
        seen.append((sizes.amax(dim=1) if aim == "peaks" else sizes.mean(dim=1)).clamp(min=1e-12).log())

    handles = [module.register_forward_hook(note) for _, module in layers_of(network)]
    try:
        for step in range(steps):
            seen.clear()
            tried = images.detach().requires_grad_(True)
            network(tried.clone())
            (gradient,) = torch.autograd.grad(torch.stack(seen).mean(dim=0).sum(), tried)
            images = (images + _START * (1 - step / steps) * gradient.sign()).clamp(0, 1).detach()
    finally:
        for handle in handles:
            handle.remove()
    return images.numpy()


@dataclass(frozen=True)
class _Try:
    share: float
    aim: Aim


@dataclass(frozen=True)
class _Quantized:
    right: NDArray[np.bool_]
    noticed: bool
    widths: dict[str, float]
    """Range of each value in the graph."""


def poisoned_calibration(
    pairs: Sequence[tuple[Subject, Subject]],
    calibration_NCHW: NDArray[np.float32],
    parity_NCHW: NDArray[np.float32],
    judged: Split,
    config: PoisonedConfig,
    progress: Progress = no_progress,
) -> Threat:
    """Each pair is a float artifact, whose graph is quantized with poisoned images, and its INT8 engine's name.

    Graphs are judged in ONNX Runtime: what an attacker made never becomes an engine here.
    """
    tries = [_Try(share, aim) for share in config.shares for aim in _AIMS]
    figures: list[Figure] = []
    total, done = len(pairs) * len(config.calibrations), 0
    dense_lost: dict[tuple[Calibration, _Try], NDArray[np.float64]] = {}
    for source, quantized in pairs:
        mine = replace(config, options=replace(config.options, keep=config.kept.get(quantized.name, ())))
        most = calibration_NCHW[: _count(max(config.shares), calibration_NCHW)]
        bad = {aim: poisoned_images(source.network, most, aim, config.steps, config.seed) for aim in _AIMS}
        for method in config.calibrations:
            progress(done, total, f"{quantized.name}, {method}")
            before = _quantize(source, calibration_NCHW, parity_NCHW, judged, method, mine)
            for what in tries:
                count = _count(what.share, calibration_NCHW)
                mixed = np.concatenate([bad[what.aim][:count], calibration_NCHW[count:]])
                found = _quantize(source, mixed, parity_NCHW, judged, method, mine)
                figure = _figure(quantized.name, method, what, before, found, config)
                lost = before.right.astype(np.float64) - found.right
                if (method, what) in dense_lost:
                    change = Change(pairs[0][1].name, paired_score_difference(dense_lost[method, what], lost))
                    figure = replace(figure, changes=(change,))
                dense_lost.setdefault((method, what), lost)
                figures.append(figure)
            done += 1
    return Threat(
        name="calibration",
        tried="Images of 0 to 1 among the calibration images that widen INT8's ranges",
        budget=f"{', '.join(map(share_text, config.shares))} of {len(calibration_NCHW)} images, {config.steps} steps",
        figures=tuple(figures),
        not_shown=(
            "x is by how much the median range of a graph's values grew. Images beyond 0 to 1 were not tried.",
            "Poisoned images look like noise: nobody looked at the calibration set here.",
            "An attacker may aim at one class, or at a trigger, and lose no accuracy at all.",
            "Layers that [quantize.mixed] keeps are kept here too; they were chosen with clean images.",
            "A graph that the chain's parity check refuses does not ship; no budget is held to it.",
        ),
        of="graph",
    )


def _figure(
    artifact: str,
    method: Calibration,
    what: _Try,
    before: _Quantized,
    found: _Quantized,
    config: PoisonedConfig,
) -> Figure:
    refused = ", parity refuses it" if found.noticed else ""
    refused = ", parity refuses the clean graph too" if before.noticed else refused
    wider = np.median([found.widths[name] / width for name, width in before.widths.items() if width > 0])
    return Figure(
        artifact=artifact,
        setting=f"{method}, {share_text(what.share)} poisoned, {_AIMS[what.aim]}; ranges x {wider:.3g}{refused}",
        measure="accuracy lost",
        interval=paired_difference(found.right, before.right),
        samples=found.right.size,
        role=_role(method, before, found, config),
    )


def _role(method: Calibration, before: _Quantized, found: _Quantized, config: PoisonedConfig) -> Role:
    if method != config.options.calibration:
        return "told"
    # A graph that is refused with clean images is not the one that ships.
    if before.noticed:
        return "unknown"
    return "told" if found.noticed else "judged"


def _quantize(
    source: Subject,
    calibration_NCHW: NDArray[np.float32],
    parity_NCHW: NDArray[np.float32],
    judged: Split,
    method: Calibration,
    config: PoisonedConfig,
) -> _Quantized:
    options = replace(config.options, calibration=method)
    calibrated = calibrate_graph(source.onnx_path, calibration_NCHW, config.threads, options)
    model = int8_graph(calibrated, config.activations, config.weight_bits, options.keep, str(source.onnx_path))
    with tempfile.TemporaryDirectory(prefix="espalier-poisoned-") as scratch:
        path = Path(scratch, "model.onnx")
        onnx.save(model, path)
        run = open_reference(path, config.threads)
    expected = open_reference(source.onnx_path, config.threads)(parity_NCHW)
    parity = compare("simplified to INT8", expected, run(parity_NCHW), same_classes)
    limits = config.limits
    noticed = parity.sqnr_db < limits.min_sqnr_db or (parity.agreement or 0.0) < limits.min_agreement
    subject = Subject(source.name, lambda images: as_tuple(run(images))[0], source.network, path)
    widths = {name: float(np.ptp(np.asarray(found.range_value))) for name, found in calibrated.ranges.items()}
    return _Quantized(right_of(subject, judged), noticed, widths)


def _count(share: float, images: NDArray[np.float32]) -> int:
    return min(len(images), max(1, round(share * len(images))))
