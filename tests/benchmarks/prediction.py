"""How far prediction is off on a device that it was not fitted to: `python -m tests.benchmarks.prediction`.

ResNet-50 v1.5 in INT8, MLPerf Edge closed division, results as published: SingleStream p90 (one image) and MultiStream
p99 (eight). One number is fitted, the clocks of a launch, to SingleStream alone; each device is then predicted by a fit
that did not see it. MultiStream is never fitted to. Offline is left out: the Orins' figures have both DLAs in them.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from devices.predict_layers import LayerCost, LayerCosts
from devices.profile import load_profile
from devices.roofline import FloatArray, Machine, layer_seconds, machine_of, tera_per_s

_STEP = 32
_CLOCKS = np.arange(1_000.0, 40_000.0, 25.0)


@dataclass(frozen=True)
class Reference:
    """A device in the state it was measured in, and what was measured."""

    name: str
    int8_tops: float
    machine: Machine
    one_image_ms: float
    eight_images_ms: float


def _reference(name: str, profile: str, one_image_ms: float, eight_images_ms: float) -> Reference:
    hardware = load_profile(profile).hardware
    return Reference(name, tera_per_s(hardware, "int8"), machine_of(hardware), one_image_ms, eight_images_ms)


REFERENCES = (
    _reference("AGX Orin 64 (v3.1)", "jetson-agx-orin-64gb", 0.640, 2.19),
    _reference("Orin NX 16 (v3.1)", "jetson-orin-nx-16gb", 1.082, 5.07),
    _reference("A2 (v3.0)", "a2", 0.713, 3.05),
    _reference("T4 (v3.0)", "t4", 0.818, 2.19),
    _reference("L4 (v3.0)", "l4", 0.362, 0.84),
    _reference("RTX 4090 (v5.1)", "rtx-4090", 0.305, 0.50),
)


def resnet_50() -> LayerCosts:
    """Version 1.5 (the stride in the 3 x 3) in INT8 for 224 x 224 pixels, fused as an engine would: 56 launches."""
    layers = [_convolution("stem", 3, 64, 7, 224, 2), _pooling("maxpool", 64, 112 * 112, 56 * 56)]
    channels, side = 64, 56
    for stage, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)]):
        for block in range(blocks):
            stride = 2 if block == 0 and stage else 1
            name = f"{stage}.{block}"
            layers.append(_convolution(f"{name}.reduce", channels, width, 1, side, 1))
            layers.append(_convolution(f"{name}.conv", width, width, 3, side, stride))
            if block == 0:
                layers.append(_convolution(f"{name}.shortcut", channels, 4 * width, 1, side, stride))
            side //= stride
            layers.append(_convolution(f"{name}.expand", width, 4 * width, 1, side, 1, added=True))
            channels = 4 * width
    layers += [_pooling("avgpool", 2048, 49, 1), _convolution("classifier", 2048, 1000, 1, 1, 1)]
    return LayerCosts(tuple(layers))


def predicted_ms(reference: Reference, images: int, launch_clocks: float) -> float:
    """Milliseconds for one query of so many images."""
    layers = resnet_50().for_batch(images).arrays()
    return float(1e3 * layer_seconds(layers, reference.int8_tops, reference.machine, _STEP, launch_clocks).total.sum())


def fitted_clocks(references: tuple[Reference, ...]) -> float:
    """The launch that misses SingleStream least, by squares of logarithms."""
    layers = resnet_50().arrays()
    lost = np.zeros(len(_CLOCKS))
    for reference in references:
        found = layer_seconds(layers, reference.int8_tops, reference.machine, _STEP, 1.0)
        fixed_s, clock_s = (found.compute + found.memory).sum(), found.launch.sum()
        lost += np.log(1e3 * (fixed_s + _CLOCKS * clock_s) / reference.one_image_ms) ** 2
    return float(_CLOCKS[lost.argmin()])


def leave_one_out(references: tuple[Reference, ...] = REFERENCES) -> tuple[FloatArray, FloatArray]:
    """Predicted over measured, less 1: (devices,) for one image, (devices,) for eight; each by the others' fit."""
    errors: NDArray[np.float64] = np.array([_errors(reference, references) for reference in references])
    return errors[:, 0], errors[:, 1]


def with_cache(scale: float) -> tuple[Reference, ...]:
    """The devices with so many times their cache; 0: with none."""
    return tuple(
        replace(found, machine=replace(found.machine, l2_cache_mb=scale * (found.machine.l2_cache_mb or 0) or None))
        for found in REFERENCES
    )


def _errors(left_out: Reference, references: tuple[Reference, ...]) -> tuple[float, float]:
    clocks = fitted_clocks(tuple(reference for reference in references if reference is not left_out))
    one, eight = (predicted_ms(left_out, images, clocks) for images in (1, 8))
    return one / left_out.one_image_ms - 1, eight / left_out.eight_images_ms - 1


def _convolution(
    name: str, in_channels: int, out_channels: int, kernel: int, side: int, stride: int, added: bool = False
) -> LayerCost:
    weights, pixels = kernel * kernel * in_channels * out_channels, (side // stride) ** 2
    return LayerCost(
        name=name,
        op="Conv",
        precision="int8",
        macs=weights * pixels,
        weight_bytes=weights,
        input_bytes=in_channels * side**2 + added * out_channels * pixels,
        output_bytes=out_channels * pixels,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel=(kernel, kernel),
    )


def _pooling(name: str, channels: int, before: int, after: int) -> LayerCost:
    return LayerCost(
        name=name,
        op="Pool",
        precision="int8",
        macs=0,
        weight_bytes=0,
        input_bytes=channels * before,
        output_bytes=channels * after,
        in_channels=0,
        out_channels=0,
    )


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    one, eight = leave_one_out()
    print("| device | one image ms | predicted | error | eight images ms | predicted | error |")
    print("|---" * 7 + "|")
    for reference, single, multi in zip(REFERENCES, one, eight, strict=True):
        measured = reference.one_image_ms, reference.eight_images_ms
        print(
            f"| {reference.name} | {measured[0]:.3f} | {measured[0] * (1 + single):.3f} | {single:+.0%} "
            f"| {measured[1]:.2f} | {measured[1] * (1 + multi):.2f} | {multi:+.0%} |"
        )
    print(f"mean absolute error, left out: one image {np.abs(one).mean():.1%}, eight images {np.abs(eight).mean():.1%}")
    ratios = 1 / (1 + one)
    print(f"measured over predicted: {ratios.min():.3f} to {ratios.max():.3f}; launch, fitted to all: ", end="")
    print(f"{fitted_clocks(REFERENCES):.0f} clocks")
    for scale, name in ((0, "no cache"), (0.5, "half the cache"), (2, "twice the cache")):
        one, eight = leave_one_out(with_cache(scale))
        print(f"{name:16} one image {np.abs(one).mean():.1%}, eight images {np.abs(eight).mean():.1%}")


if __name__ == "__main__":
    main()
