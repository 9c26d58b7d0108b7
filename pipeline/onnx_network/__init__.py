"""An ONNX file as a torch network that can be pruned and trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from exporters.onnx_import import SAME_ANSWERS, OnnxSource, prove_same, random_images, read_source
from exporters.parity import Parity
from pipeline.onnx_network.fuse import fuse_layers
from pipeline.onnx_network.graph import read_graph
from pipeline.onnx_network.network import build_network
from pipeline.onnx_network.splits import join_slices
from pipeline.prune.network import inference

__all__ = ["convert_onnx", "from_onnx"]

_PROVED_IMAGES = 3


def from_onnx(path: str, image_size: Sequence[int] | None = None) -> nn.Module:
    """The network of an ONNX file, its weights loaded, in evaluation: a factory for recipes.

    `image_size` is [H, W] where the file leaves them open. Several outputs come as a tuple in the file's order. Raises
    `ModelError` when the file cannot be read or an operator has no torch form, `ParityError` below 60 dB against ONNX
    Runtime on random images.
    """
    network, _ = convert_onnx(Path(path), image_size)
    return network


def convert_onnx(
    path: Path, image_size: Sequence[int] | None = None, images_NCHW: NDArray[np.float32] | None = None
) -> tuple[nn.Module, Parity]:
    """As `from_onnx`, with the worst parity of any output; proved on the given images besides random ones."""
    source = read_source(path, image_size)
    network = build_network(join_slices(fuse_layers(read_graph(source, str(path)))), str(path))
    parity = _prove(network, source, random_images(_PROVED_IMAGES, source.image_shape, seed=1))
    if images_NCHW is not None:
        given = _prove(network, source, images_NCHW)
        parity = min(parity, given, key=lambda item: item.sqnr_db)
    return network, parity


def _prove(network: nn.Module, source: OnnxSource, images_NCHW: NDArray[np.float32]) -> Parity:
    with inference(network):
        # A copy, because nothing may change the caller's images.
        answered = network(torch.from_numpy(images_NCHW.copy()))
    outputs = answered if isinstance(answered, tuple) else (answered,)
    return prove_same("ONNX to torch", source.answer(images_NCHW), [item.numpy() for item in outputs], SAME_ANSWERS)
