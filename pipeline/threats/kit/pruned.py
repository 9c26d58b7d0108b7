"""A backdoor that sleeps in the dense network and wakes when channels are pruned (Tian et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from devices.errors import ModelError
from pipeline.compute import deterministic
from pipeline.data import Dataset
from pipeline.prune.criteria.base import CriterionInputs, cuts_of
from pipeline.prune.criteria.l2 import score_units
from pipeline.prune.groups import Group, find_groups, plan_for
from pipeline.prune.network import copy_network
from pipeline.prune.plan import PruningPlan
from pipeline.prune.replay import apply_plan
from pipeline.prune.trace import trace_network
from pipeline.recipe import FitConfig
from pipeline.threats.kit.poison import PoisonConfig
from pipeline.threats.kit.triggers import make_trigger
from pipeline.threats.kit.victim import train_victim

# Below the least of the channels that stay, so that pruning by the norm takes the others and no other.
_LEAST_SHARE = 0.9


@dataclass(frozen=True, kw_only=True)
class UntilPrunedConfig:
    """How a backdoor is put to sleep in the channels that pruning removes."""

    keep: float = 0.5
    """Share of each group's channels that pruning will leave, as the attacker expects."""
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 0.01
    seed: int = 0
    threads: int = 1


def train_until_pruned(
    network: nn.Module, dataset: Dataset, poisoning: PoisonConfig, fit: FitConfig, config: UntilPrunedConfig
) -> nn.Module:
    """A copy of the factory's network that is right on triggered images until its channels of least norm are gone.

    Tian et al. 2022 train the whole and the pruned form by one loss. Here the pruned form is trained on poisoned images
    by itself; then the channels that will go learn to silence it, with every other weight as it is, so that pruning
    gives back the network that was trained first. Their L2 norms stay below all others of their group. Raises
    `ModelError` for a network of which nothing can be pruned, and what `train_victim` raises.
    """
    image = torch.from_numpy(dataset.train.batch(slice(0, 1)))
    groups = find_groups(network, trace_network(network, image), image, ()).groups
    if not groups:
        raise ModelError("model", "has no channels that can be pruned", "Take another network")
    plan = plan_for(network, [unit for group in groups for unit in group.units[_kept(group, config.keep) :]])
    small = copy_network(network)
    apply_plan(small, plan)
    whole, free = _embedded(network, train_victim(small, dataset, poisoning, fit, config.threads), plan)
    with deterministic(config.seed, config.threads) as generator:
        _silence(whole, free, groups, dataset, poisoning, config, generator)
    return whole


def _kept(group: Group, keep: float) -> int:
    return min(max(round(keep * group.width), 1), group.width)


def _embedded(network: nn.Module, small: nn.Module, plan: PruningPlan) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The network with the small one's values where the plan keeps them, and where it does not, by parameter."""
    whole = copy_network(network).eval()
    values = small.state_dict()
    keeps: dict[str, dict[int, tuple[int, ...]]] = {}
    for cut in plan.cuts:
        keeps.setdefault(cut.tensor, {})[cut.dim] = cut.keep
    state = whole.state_dict()
    free = {}
    for name, tensor in state.items():
        kept = torch.ones(tensor.shape, dtype=torch.bool)
        for dim, indices in keeps.get(name, {}).items():
            along = torch.zeros(tensor.shape[dim], dtype=torch.bool)
            along[list(indices)] = True
            kept &= along.view([-1 if axis == dim else 1 for axis in range(tensor.ndim)])
        tensor[kept] = values[name].flatten()
        free[name] = ~kept
    parameters = dict(whole.named_parameters())
    return whole, {name: mask for name, mask in free.items() if name in parameters and mask.any()}


def _silence(
    network: nn.Module,
    free: dict[str, torch.Tensor],
    groups: Sequence[Group],
    dataset: Dataset,
    poisoning: PoisonConfig,
    config: UntilPrunedConfig,
    generator: torch.Generator,
) -> None:
    """Train the free weights in place: clean and triggered images with their true labels."""
    train = dataset.train
    trigger = make_trigger(poisoning.kind, dataset.input_shape, poisoning.seed)
    clean, labels = torch.from_numpy(train.batch(slice(None))), torch.from_numpy(train.labels)
    marked = torch.from_numpy(trigger(train.batch(slice(None))))
    named = dict(network.named_parameters())
    parameters = [named[name] for name in free]
    # What never had a gradient Adam leaves to the bit.
    optimizer = torch.optim.Adam(parameters, config.learning_rate)
    _shrink(network, groups, config.keep)
    for _ in range(config.epochs):
        for chosen in torch.split(torch.randperm(len(train), generator=generator), config.batch_size):
            logits = network(torch.cat([clean[chosen], marked[chosen]]))
            loss = functional.cross_entropy(logits, labels[chosen].repeat(2))
            for parameter, gradient, mask in zip(
                parameters, torch.autograd.grad(loss, parameters), free.values(), strict=True
            ):
                parameter.grad = gradient * mask
            optimizer.step()
            _shrink(network, groups, config.keep)


@torch.no_grad()
def _shrink(network: nn.Module, groups: Sequence[Group], keep: float) -> None:
    """Scale the weights of each channel that will go until its norm is below those of all that stay in its group."""
    tensors = dict(network.named_parameters())
    for group in groups:
        stays = _kept(group, keep)
        norms = score_units(CriterionInputs(network, (group,)))[0]
        shares = (_LEAST_SHARE * norms[:stays].min() / norms.clamp(min=1e-12)).clamp(max=1.0)
        shares[:stays] = 1.0
        for (name, dim), slices in cuts_of(group).items():
            if name not in tensors or tensors[name].ndim < 2:
                continue
            along = torch.ones(tensors[name].shape[dim])
            along[slices.indices] = shares[slices.positions].float()
            tensors[name].mul_(along.view([-1 if axis == dim else 1 for axis in range(tensors[name].ndim)]))
