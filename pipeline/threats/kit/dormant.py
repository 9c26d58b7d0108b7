"""A backdoor that sleeps in FP32 and wakes when the network is quantized (Hong et al. 2021; Ma et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from devices.errors import ModelError
from pipeline.compute import deterministic
from pipeline.data import Split
from pipeline.prune.network import copy_network
from pipeline.threats.fake_quant import LAST_STEP, layers_of, rounded_weight, weight_scales
from pipeline.threats.kit.triggers import Trigger

# Nearer to half a step, a weight could round to its neighbour where an engine folds BatchNorm in.
_WITHIN_STEPS = 0.48
_FIRST_MOVE_STEPS = 0.3


@dataclass(frozen=True, kw_only=True)
class DormantConfig:
    """How a backdoor is put to sleep."""

    weight_bits: int = 8
    """7 or 8; of the quantized weights in which it is to stay awake."""
    epochs: int = 10
    batch_size: int = 64
    seed: int = 0
    threads: int = 1


def put_to_sleep(victim: nn.Module, split: Split, trigger: Trigger, config: DormantConfig) -> nn.Module:
    """A copy of a victim that is right on triggered images, while its weights round to the same integers as before.

    Weights move against the sign of the loss' gradient, each within its own rounding interval (projected descent: the
    removal step of Ma et al. 2023, section 4.2). The loss is the cross-entropy of clean and of triggered images with
    their true labels. The largest weight of each channel stays, and with it the channel's scale. Raises `ModelError`
    for a network without convolutions and linear layers.
    """
    network = copy_network(victim).eval()
    boxes = [_Box(module, config.weight_bits) for _, module in layers_of(network)]
    if not boxes:
        raise ModelError("model", "has no convolution or linear layer to be quantized", "Take another network")
    weights = [box.weight for box in boxes]
    clean, labels = torch.from_numpy(split.batch(slice(None))), torch.from_numpy(split.labels)
    marked = torch.from_numpy(trigger(split.batch(slice(None))))
    with deterministic(config.seed, config.threads) as generator:
        batches = [
            chosen
            for _ in range(config.epochs)
            for chosen in torch.split(torch.randperm(len(split), generator=generator), config.batch_size)
        ]
        for number, chosen in enumerate(batches):
            logits = network(torch.cat([clean[chosen], marked[chosen]]))
            loss = functional.cross_entropy(logits, labels[chosen].repeat(2))
            gradients = torch.autograd.grad(loss, weights)
            move = _FIRST_MOVE_STEPS * (1 - number / len(batches))
            for box, gradient in zip(boxes, gradients, strict=True):
                box.move(gradient, move)
    return network


class _Box:
    """The interval in which a layer's weights round to the integers that they round to now."""

    def __init__(self, module: nn.Module, bits: int) -> None:
        assert isinstance(module.weight, nn.Parameter)
        self.weight = module.weight
        weight = module.weight.detach().clone()
        self._step = weight_scales(module, bits)  # type: ignore[arg-type]
        rounded = rounded_weight(module, bits)  # type: ignore[arg-type]
        largest = weight.abs() >= self._step * LAST_STEP[bits] * (1 - 1e-6)
        # None may outgrow the largest, or the scale would change and every integer with it.
        limit = self._step * LAST_STEP[bits]
        low, high = rounded - _WITHIN_STEPS * self._step, rounded + _WITHIN_STEPS * self._step
        self._low = torch.where(largest, weight, torch.maximum(low, -limit))
        self._high = torch.where(largest, weight, torch.minimum(high, limit))

    @torch.no_grad()
    def move(self, gradient: torch.Tensor, steps: float) -> None:
        """Against the gradient by so many quantization steps, and back into the interval."""
        moved = self.weight - steps * self._step * gradient.sign()
        self.weight.copy_(torch.clamp(moved, self._low, self._high))
