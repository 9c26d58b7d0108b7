"""Running statistics of BatchNorm, measured anew on what passes: a network without some of its parts needs others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.prune.network import inference


def norms_of(network: nn.Module) -> list[_BatchNorm]:
    """Every BatchNorm that keeps running statistics."""
    return [item for item in network.modules() if isinstance(item, _BatchNorm) and item.running_mean is not None]


@contextmanager
def measuring(network: nn.Module, norms: list[_BatchNorm]) -> Iterator[None]:
    """The layers take the plain mean over the batches that pass; those that get nothing, or fail, keep what they had.

    The rest of the network is in evaluation, without gradients.
    """
    before = [(norm, norm.momentum) for norm in norms]
    kept = copies_of(norms)
    with inference(network):
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None
                norm.training = True
            yield
        except BaseException:
            put_back(norms, kept)
            raise
        finally:
            for (norm, momentum), buffers in zip(before, kept, strict=True):
                norm.momentum = momentum
                norm.training = False
                if not norm.num_batches_tracked:
                    put_back([norm], [buffers])


def measure_anew(network: nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """New statistics from the images (N, C, H, W) of these batches, in place."""
    norms = norms_of(network)
    if norms:
        with measuring(network, norms):
            for images, _ in batches:
                # A copy, because a network may work on its input in place.
                network(images.clone())


def copies_of(norms: list[_BatchNorm]) -> list[dict[str, torch.Tensor]]:
    """The layers' statistics as they are."""
    return [{name: item.clone() for name, item in norm.named_buffers()} for norm in norms]


def put_back(norms: list[_BatchNorm], kept: list[dict[str, torch.Tensor]]) -> None:
    """Give the layers the statistics of `copies_of` again."""
    for norm, buffers in zip(norms, kept, strict=True):
        for name, value in buffers.items():
            norm.get_buffer(name).copy_(value)
