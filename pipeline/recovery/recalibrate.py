"""Statistics of BatchNorm measured anew: pruning and averaging change what a layer gets."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from devices.errors import EspalierError, ModelError
from pipeline.compute import deterministic
from pipeline.data import Split, seeded_choice
from pipeline.prune.network import copy_network, first_line
from pipeline.prune.statistics_anew import measuring, norms_of
from pipeline.recipe import ObjectiveConfig, RecalibrateConfig
from pipeline.recovery.objective import Loss, adversarial
from pipeline.tasks.builtin import Classification

_BATCH = 100


def recalibrate(
    network: nn.Module,
    split: Split,
    objective: ObjectiveConfig,
    config: RecalibrateConfig,
    seed: int,
    threads: int,
    *,
    loss: Loss | None = None,
) -> int:
    """Measure the running statistics of every BatchNorm anew, in place. Returns how many layers were measured.

    Each statistic becomes the plain mean of those of equal batches of a seeded choice of `config.samples` training
    images (N, C, H, W), not augmented; the rest of the network stays in evaluation. Where the objective has an
    adversary, the images are PGD examples that raise `loss`, crafted on the network as it was before. A network without
    running statistics is not touched, nor is a layer that the network does not run. Raises `ModelError`, with the
    statistics as they were, when the network fails or gives none that are finite.
    """
    norms = norms_of(network)
    if not norms or not config.samples:
        return 0
    attacked = copy_network(network).eval() if objective.attacked else None
    device = next(network.buffers()).device
    with deterministic(seed, threads, device.type == "cpu") as generator, measuring(network, norms):
        for chosen in _equal_batches(seeded_choice(len(split), config.samples, seed), generator):
            images = torch.from_numpy(split.batch(chosen)).to(device)
            try:
                if attacked is not None:
                    noise = torch.rand(images.shape, generator=generator).to(device)
                    targets = torch.from_numpy(split.labels[chosen]).to(device)
                    with torch.enable_grad():
                        images = adversarial(attacked, images, targets, objective, loss or Classification().loss, noise)
                network(images)
            except EspalierError:
                raise
            # A user's network may raise anything.
            except Exception as cause:
                raise ModelError(
                    "recalibrate", f"the network fails: {first_line(cause)}", "Set recalibrate.samples = 0, or mend it"
                ) from cause
        _require_finite(network, norms)
        return sum(1 for norm in norms if norm.num_batches_tracked)


def _require_finite(network: nn.Module, norms: list[_BatchNorm]) -> None:
    names = {module: name for name, module in network.named_modules()}
    for norm in norms:
        for name, value in norm.named_buffers():
            if not bool(torch.isfinite(value).all()):
                what = f"'{names[norm]}.{name}' comes out not finite"
                raise ModelError("recalibrate", what, "Lower learning_rate, or prune less")


def _equal_batches(chosen: NDArray[np.int64], generator: torch.Generator) -> list[NDArray[np.int64]]:
    """The samples, shuffled, in batches of one size: the mean of unequal batches would weigh their images unequally."""
    order = chosen[torch.randperm(len(chosen), generator=generator).numpy()]
    rows = -(-len(order) // _BATCH)
    each = len(order) // rows
    return np.split(order[: rows * each], rows)
