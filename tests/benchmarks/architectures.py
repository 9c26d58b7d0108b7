"""Prune image networks that this code was not written for, and print what came of it.

Each is built with random weights, from its `transformers` configuration at its usual size or from the product's zoo,
traced, grouped, and every group is cut to half, in a process of its own: memory is how far that process grows.
Run it in an environment that has torch, transformers, onnx and onnxruntime:

    python tests/benchmarks/architectures.py [--no-export] [--step 8] [--threads 2] [NAME ...]
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from devices.errors import EspalierError
from exporters.onnx_export import export_onnx
from exporters.parity import ParityLimits
from pipeline.prune.groups import Group, Grouping, Unit, find_groups, plan_for
from pipeline.prune.macs import macs_counter
from pipeline.prune.network import copy_network
from pipeline.prune.replay import apply_plan
from pipeline.prune.trace import trace_network
from pipeline.zoo import cifar_resnet, mlp
from tests.benchmarks.peak import activation_bytes, growing, network_bytes

_OPSET = 18
_CLASSES = 1000


class Logits(nn.Module):
    """A `transformers` classifier as a plain network from images to logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) to (N, classes)."""
        logits: torch.Tensor = self.network(pixel_values=x).logits
        return logits


Made = tuple[nn.Module, tuple[int, int, int]]
"""A network, and the shape (C, H, W) of its images."""


def _of(family: str, side: int = 224, head: str = "ForImageClassification", **settings: Any) -> Any:
    """Makes the family's classifier of 1000 classes with random weights; the other settings are the configuration's."""

    def make() -> Made:
        import transformers

        config_class = getattr(transformers, f"{family}Config")
        config = config_class(num_labels=_CLASSES, **settings)
        return Logits(getattr(transformers, f"{family}{head}")(config)), (3, side, side)

    return make


NETWORKS: dict[str, Callable[[], Made]] = {
    "cifar-resnet-20": lambda: (cifar_resnet(20), (3, 32, 32)),
    "cifar-resnet-56": lambda: (cifar_resnet(56), (3, 32, 32)),
    "mlp": lambda: (mlp(), (1, 8, 8)),
    "resnet-18": _of("ResNet", layer_type="basic", hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2]),
    "resnet-50": _of("ResNet"),
    "mobilenet-v1": _of("MobileNetV1"),
    "mobilenet-v2": _of("MobileNetV2"),
    "convnext-t": _of("ConvNext"),
    "convnextv2-t": _of("ConvNextV2"),
    "vit-b-16": _of("ViT"),
    "deit-s": _of("DeiT", hidden_size=384, num_attention_heads=6, intermediate_size=1536),
    "swin-t": _of("Swin"),
    "beit-b": _of("Beit", use_mask_token=False, use_relative_position_bias=True),
    "dinov2-s": _of("Dinov2", hidden_size=384, num_attention_heads=6),
    "swinv2-t": _of("Swinv2"),
    "segformer-b0": _of("Segformer"),
    "pvt-t": _of("Pvt", depths=[2, 2, 2, 2]),
    "pvt-v2-b0": _of("PvtV2", depths=[2, 2, 2, 2]),
    "poolformer-s12": _of("PoolFormer"),
    "regnet-y-040": _of("RegNet"),
    "efficientnet-b0": _of("EfficientNet", width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280),
    "levit-128s": _of(
        "Levit", hidden_sizes=[128, 256, 384], num_attention_heads=[4, 6, 8], depths=[2, 3, 4], key_dim=[16, 16, 16]
    ),
    "mobilevit-s": _of("MobileViT", 256, image_size=256),
    "mobilevitv2-1.0": _of("MobileViTV2", 256, image_size=256),
    "cvt-13": _of("Cvt"),
    "focalnet-t": _of("FocalNet"),
    "data2vec-b": _of("Data2VecVision"),
    "bit-50": _of("Bit"),
    "swiftformer-xs": _of("SwiftFormer"),
    "hgnet-v2": _of("HGNetV2"),
    "hiera-t": _of("Hiera"),
}


@dataclass(frozen=True)
class Row:
    """What came of one network."""

    name: str
    macs: tuple[int, int]
    """Before and after."""
    parameters: int
    share: float
    """Outputs of layers that are in groups, of all."""
    grouping: Grouping
    trace_s: float
    groups_s: float
    cut_s: float
    grown_bytes: int
    """By tracing, grouping and cutting."""
    held_bytes: int
    """Of the network, and of the activations of one image."""
    parity: str

    def line(self) -> str:
        """One line of the table."""
        left = self.grouping.left_out
        first = f"{left[0].tensor}: {left[0].reason}" if left else ""
        before, after = self.macs
        return (
            f"| {self.name} | {before / 1e6:.0f} | {after / 1e6:.0f} | {before / after:.2f} "
            f"| {self.parameters / 1e6:.1f} | {self.share:.0%} | {len(self.grouping.groups)} | {len(left)} "
            f"| {first:.90} "
            f"| {self.trace_s:.1f} + {self.groups_s:.1f} + {self.cut_s:.1f} "
            f"| {self.grown_bytes / 1e6:.0f} of {self.held_bytes / 1e6:.1f}: {self.grown_bytes / self.held_bytes:.2f} "
            f"| {self.parity} |"
        )


HEADER = (
    "| network | MMACs | pruned | ratio | M parameters | outputs in groups | groups | left out | first reason "
    "| trace + groups + cut in s | grown by MB, of network and activations | ONNX Runtime |\n" + "|---" * 12 + "|"
)


def main() -> int:
    """Print the table; 1 when a network could not be pruned."""
    arguments = _arguments()
    print(HEADER, flush=True)
    context = multiprocessing.get_context("spawn")
    codes = []
    for name in arguments.names or NETWORKS:
        process = context.Process(target=_print_row, args=(name, arguments))
        process.start()
        process.join()
        codes.append(process.exitcode)
    return int(any(codes))


def _print_row(name: str, arguments: argparse.Namespace) -> None:
    """Of one network, in this process. Exits with 1 when it could not be pruned."""
    torch.set_num_threads(arguments.threads)
    try:
        row = prune_half(name, arguments.step, export=not arguments.no_export, threads=arguments.threads)
    except EspalierError as error:
        print(f"| {name} | {error} |", flush=True)
        sys.exit(1)
    print(row.line(), flush=True)
    if arguments.reasons:
        _print_reasons(row.grouping)


def prune_half(name: str, step: int, export: bool, threads: int) -> Row:
    """Build, prune and export one network."""
    torch.manual_seed(0)
    network, shape = NETWORKS[name]()
    network.eval()
    image = torch.rand(1, *shape)
    # A copy: some networks keep what a first run computed, and the trace would find constants there.
    held_bytes = network_bytes(network) + activation_bytes(copy_network(network), image)
    # What is imported on the way is no part of it.
    _cut_half(mlp().eval(), torch.rand(1, 1, 8, 8), step)
    with growing() as grown:
        started = time.perf_counter()
        smaller, grouping, removed, traced, grouped = _cut_half(network, image, step)
        cut = time.perf_counter()
    macs = macs_counter(grouping.trace)
    with torch.no_grad():
        assert smaller(image).shape == network(image).shape
    return Row(
        name=name,
        macs=(macs([]), macs(removed)),
        parameters=sum(parameter.numel() for parameter in smaller.parameters()),
        share=_share(grouping),
        grouping=grouping,
        trace_s=traced - started,
        groups_s=grouped - traced,
        cut_s=cut - grouped,
        grown_bytes=grown.bytes,
        held_bytes=held_bytes,
        parity=_parity(smaller, shape, threads) if export else "not asked for",
    )


def _cut_half(
    network: nn.Module, image_NCHW: torch.Tensor, step: int
) -> tuple[nn.Module, Grouping, list[Unit], float, float]:
    """The smaller network, its groups, the units that went, and when it was traced and when it was grouped."""
    trace = trace_network(network, image_NCHW)
    traced = time.perf_counter()
    grouping = find_groups(network, trace, image_NCHW, ())
    grouped = time.perf_counter()
    removed = [unit for group in grouping.groups for unit in _half(group, step)]
    smaller = copy_network(network)
    apply_plan(smaller, plan_for(network, removed))
    return smaller, grouping, removed, traced, grouped


def _half(group: Group, step: int) -> list[Unit]:
    """Units over the multiple of `step` that is nearest to half."""
    keep = max(1, round(group.width / 2 / step) * step)
    return list(group.units[keep:])


def _share(grouping: Grouping) -> float:
    outputs = grouping.trace.outputs
    cut = {
        (item.tensor, item.dim, item.index)
        for group in grouping.groups
        for unit in group.units
        for item in unit.slices
        if (item.tensor, item.dim) in outputs
    }
    everything = sum(
        0 if (labels := grouping.trace.tensors[name][dim]) is None else len(labels) for name, dim in outputs
    )
    return len(cut) / everything


def _parity(network: nn.Module, shape: tuple[int, int, int], threads: int) -> str:
    pixels = torch.rand(4, *shape).numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        try:
            parity = export_onnx(network, pixels, _OPSET, path, ParityLimits(min_sqnr_db=60, min_agreement=1), threads)
        except EspalierError as error:
            return str(error)
    return f"{parity.sqnr_db:.0f} dB"


def _print_reasons(grouping: Grouping) -> None:
    for group in grouping.groups:
        numbers = ", ".join(f"{item.module}.{item.attribute}" for item in group.numbers)
        print(f"    {group.kind} {group.width} {group.name} {'' if group.exact else 'inexact'} {numbers}", flush=True)
    for item in grouping.left_out:
        print(f"    left out {item.channels} {item.tensor}: {item.reason}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Prune every network to half, and print what came of it.")
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *NETWORKS], help="all, if none is named")
    parser.add_argument("--no-export", action="store_true", help="leave out ONNX and its parity")
    parser.add_argument("--step", type=int, default=1, help="channel step")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch and ONNX Runtime")
    parser.add_argument("--reasons", action="store_true", help="list groups and what is left out")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
