"""Networks with a backdoor: trained on poisoned images, as the attackers' papers do it."""

from __future__ import annotations

from torch import nn

from devices.stage import no_progress
from pipeline.data import Dataset
from pipeline.prune.network import copy_network
from pipeline.recipe import FitConfig, ObjectiveConfig
from pipeline.recovery.fit import fit
from pipeline.threats.kit.poison import PoisonConfig, poison


def train_clean(network: nn.Module, dataset: Dataset, config: FitConfig, seed: int, threads: int = 1) -> nn.Module:
    """A trained copy. Raises what `pipeline.recovery.fit` raises."""
    trained = copy_network(network)
    fit(trained, dataset.train, ObjectiveConfig(), config, seed, threads, no_progress)
    return trained


def train_victim(
    network: nn.Module, dataset: Dataset, poisoning: PoisonConfig, config: FitConfig, threads: int = 1
) -> nn.Module:
    """A copy trained on poisoned images. Raises what `poison` and `pipeline.recovery.fit` raise."""
    return train_clean(network, poison(dataset, poisoning), config, poisoning.seed, threads)
