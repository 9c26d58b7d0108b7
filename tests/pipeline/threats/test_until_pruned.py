"""A backdoor that wakes when the channels of least norm are pruned, and what a scan after each stage says of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from devices.errors import ModelError
from pipeline.prune.channels import prune_channels
from pipeline.prune.pruning import Pruning
from pipeline.recipe import PruneConfig
from pipeline.recipe.threats import ThreatsConfig
from pipeline.threats.kit.poison import PoisonConfig
from pipeline.threats.kit.pruned import UntilPrunedConfig, train_until_pruned
from pipeline.threats.kit.success import answers_of, attack_success, clean_accuracy
from pipeline.threats.scan.judge import judge_stages
from pipeline.threats.scan.look import look_at
from tests.pipeline.threats.conftest import FIT, TARGET, Planted, fresh

CONFIG = UntilPrunedConfig(epochs=5)


def test_a_backdoor_sleeps_in_the_dense_network_and_wakes_when_it_is_pruned(planted: Planted) -> None:
    dataset = planted.dataset
    poisoning = PoisonConfig(kind="sinusoidal", target=TARGET, seed=1)
    dense = train_until_pruned(fresh(2, channels=16), dataset, poisoning, FIT, CONFIG)
    image = torch.from_numpy(dataset.train.batch(slice(0, 1)))
    config = PruneConfig(criterion="l2", keep_ratio=CONFIG.keep)
    pruned = prune_channels(config, Pruning(network=dense, image_NCHW=image, channel_step=1)).network
    sleeping, awake = (
        attack_success(answers_of(network), dataset.test, planted.trigger, TARGET) for network in (dense, pruned)
    )
    assert awake.low > 0.8
    assert sleeping.high < awake.low - 0.3
    assert min(clean_accuracy(answers_of(network), dataset.test).value for network in (dense, pruned)) > 0.85
    # The stage that woke it is the one that is told.
    scan = ThreatsConfig(scan=("inversion", "stages"), inversion_steps=100)
    found = judge_stages(
        "pruned", look_at(pruned, planted.images, scan, 0), pruned, ("dense", dense), planted.images, 0.1
    )
    assert found.sign
    assert found.class_name == str(TARGET)


def test_a_network_of_which_nothing_can_be_pruned_is_refused(planted: Planted) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ModelError, match="no channels that can be pruned"):
        train_until_pruned(network, planted.dataset, PoisonConfig(target=TARGET), FIT, CONFIG)
