"""Removal: masks are cuts, clean images alone decide, and a backdoor goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from devices.errors import DataError, ModelError
from devices.stage import no_progress
from pipeline.data import Split
from pipeline.model import load_network, load_plan
from pipeline.prune.groups import Group, find_groups
from pipeline.prune.network import inference
from pipeline.prune.plan import PruningPlan
from pipeline.prune.trace import trace_network
from pipeline.recipe import ModelConfig
from pipeline.threats.kit.success import answers_of, attack_success, clean_accuracy
from pipeline.threats.kit.triggers import make_trigger
from pipeline.threats.remove.choose import choose_neurons
from pipeline.threats.remove.cut import cut_neurons
from pipeline.threats.remove.defend import DefendConfig, defend, save_defended
from pipeline.threats.remove.masking import Neuron, NeuronMasks, hidden_neurons, neurons_of
from pipeline.threats.remove.scores import (
    AnpConfig,
    Clean,
    RnpConfig,
    anp_scores,
    dormant_scores,
    rnp_scores,
)
from pipeline.threats.scan.inversion import Inversion
from pipeline.threats.scan.warping import Warping
from tests.pipeline.threats.conftest import TARGET, WARPED_TARGET, Planted


@pytest.fixture(scope="module")
def groups(planted: Planted) -> tuple[Group, ...]:
    image = planted.images.images[:1]
    return find_groups(planted.victim, trace_network(planted.victim, image), image, ()).groups


@pytest.fixture(scope="module")
def held(planted: Planted) -> Clean:
    return Clean(images=torch.from_numpy(planted.samples.images), labels=torch.from_numpy(planted.samples.labels))


def test_neurons_are_the_channels_of_batch_normalizations(planted: Planted, groups: tuple[Group, ...]) -> None:
    neurons = neurons_of(planted.victim, groups)
    assert {neuron.module for neuron in neurons} == {
        "bn",
        *(f"blocks.{block}.bn{which}" for block in (0, 1) for which in (1, 2)),
    }
    assert len(neurons) == 5 * 12 == len(hidden_neurons(planted.victim))
    plain = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3, 2))
    assert hidden_neurons(plain) == (Neuron("0", 0), Neuron("0", 1), Neuron("0", 2))


@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 0.6))
@settings(max_examples=15)
def test_a_mask_of_zeros_is_a_cut(planted: Planted, groups: tuple[Group, ...], seed: int, share: float) -> None:
    neurons = neurons_of(planted.victim, groups)
    drawn = np.random.default_rng(seed).random(len(neurons)) < share
    gone = [neuron for neuron, out in zip(neurons, drawn, strict=True) if out]
    masks = NeuronMasks(planted.victim, neurons)
    images = planted.images.images
    with inference(planted.victim), masks.applied(torch.from_numpy((~drawn).astype(np.float32))):
        masked = planted.victim(images)
    cut, plan = cut_neurons(planted.victim, groups, gone)
    with inference(cut):
        torch.testing.assert_close(cut(images), masked, atol=1e-4, rtol=1e-4)
    # Both ways of going were used: units cut, and neurons of the residual stream made zero.
    if any(neuron.module == "blocks.0.bn1" for neuron in gone):
        assert any(item.tensor == "blocks.0.bn1.weight" for item in plan.cuts)
    for name in plan.masked:
        assert bool((dict(cut.named_parameters())[name] == 0).any())


def test_factors_and_shifts_move_weight_and_bias_apart() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 3), nn.Linear(3, 2))
    masks = NeuronMasks(network, [Neuron("1", 0), Neuron("1", 2)])
    image = torch.tensor([[0.5, 0.25]])
    weight, bias = network[1].weight.detach(), network[1].bias.detach()
    with torch.no_grad(), masks.applied(torch.tensor([2.0, 0.0]), torch.tensor([3.0, 0.5])):
        found = network[1](image)[0]
    plain = image @ weight.T
    expected = torch.stack([2 * plain[0, 0] + 3 * bias[0], plain[0, 1] + bias[1], 0.5 * bias[2]])
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        torch.testing.assert_close(network[1](image)[0], (plain + bias)[0])


def test_all_scores_are_one_number_a_neuron(planted: Planted, groups: tuple[Group, ...], held: Clean) -> None:
    neurons = neurons_of(planted.victim, groups)
    before = [tensor.clone() for tensor in planted.victim.state_dict().values()]
    generator = torch.Generator().manual_seed(0)
    anp = anp_scores(planted.victim, neurons, held, AnpConfig(epochs=3), generator)
    rnp = rnp_scores(planted.victim, neurons, held, RnpConfig(unlearn_epochs=3, recover_epochs=3), generator)
    for scores in (anp, rnp):
        assert scores.shape == (len(neurons),)
        assert float(scores.min()) >= 0
        assert float(scores.max()) <= 1
    dormant = dormant_scores(planted.victim, neurons, held)
    # Each layer is divided by its own mean.
    for name in {neuron.module for neuron in neurons}:
        own = [float(score) for score, neuron in zip(dormant, neurons, strict=True) if neuron.module == name]
        assert np.mean(own) == pytest.approx(1.0, rel=1e-4)
    assert all((a == b).all() for a, b in zip(before, planted.victim.state_dict().values(), strict=True))


def test_clean_images_decide_how_many_go(planted: Planted, groups: tuple[Group, ...], held: Clean) -> None:
    neurons = neurons_of(planted.victim, groups)
    scores = dormant_scores(planted.victim, neurons, held)
    counts = []
    for max_drop in (0.0, 10.0, 40.0, 100.0):
        chosen = choose_neurons(planted.victim, neurons, scores, held, max_drop)
        assert all(lost <= max_drop for count, lost in chosen.tried if count <= len(chosen.neurons))
        counts.append(len(chosen.neurons))
    # With 50 samples even nothing lost has a bad end of 5.3 points.
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[-1] > len(neurons) // 2
    # Each layer keeps its best.
    assert len({neuron.module for neuron in set(neurons) - set(chosen.neurons)}) == 5


def test_unlearning_removes_the_backdoor_where_tuning_does_not(planted: Planted) -> None:
    judged, rates = planted.judged, {}
    for method in ("unlearning", "finetune"):
        found = defend(planted.victim, planted.samples, DefendConfig(method=method), no_progress)  # type: ignore[arg-type]
        answer = answers_of(found.network)
        assert clean_accuracy(answer, judged).value > clean_accuracy(answers_of(planted.victim), judged).value - 0.06
        rates[method] = attack_success(answer, judged, planted.trigger, TARGET)
        assert found.plan == PruningPlan()
        assert found.metrics.get("trigger") == ("patch" if method == "unlearning" else None)
    assert rates["unlearning"].high < 0.2
    assert rates["unlearning"].high < rates["finetune"].low


def test_unlearning_takes_the_kind_of_trigger_that_stands_out_and_removes_a_warp(
    planted: Planted, warped_victim: nn.Module
) -> None:
    trigger = make_trigger("warped", planted.dataset.input_shape, 1)
    found = defend(warped_victim, planted.samples, DefendConfig(method="unlearning"), no_progress)
    assert (found.metrics["trigger"], found.metrics["class"]) == ("warp", WARPED_TARGET)
    assert found.metrics["warp_gap"] > found.metrics["patch_gap"]
    before, after = (
        attack_success(answers_of(network), planted.judged, trigger, WARPED_TARGET)
        for network in (warped_victim, found.network)
    )
    assert before.value > 0.8
    assert after.high < 0.3
    assert clean_accuracy(answers_of(found.network), planted.judged).value > 0.9


def test_a_trigger_is_looked_for_on_64_images_of_all_classes(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.concatenate([planted.samples.labels] * 2)
    order = np.argsort(labels, kind="stable")
    sorted_ = Split(np.concatenate([planted.samples.images] * 2)[order], labels[order])
    looked: list[torch.Tensor] = []

    def noted(_network: nn.Module, images: torch.Tensor, classes: int, *_rest: Any) -> Inversion:
        looked.append(images)
        sizes = torch.arange(1.0, 1 + classes)
        return Inversion(sizes, torch.zeros(classes, 8, 8), torch.zeros(classes, 1, 8, 8))

    def warps(_network: nn.Module, images: torch.Tensor, classes: int, *_rest: Any) -> Warping:
        looked.append(images)
        return Warping(torch.full((classes,), 4.0), torch.zeros(classes, 2, 8, 8))

    monkeypatch.setattr("pipeline.threats.remove.unlearn.invert", noted)
    monkeypatch.setattr("pipeline.threats.remove.unlearn.invert_warps", warps)
    seen = defend(planted.victim, sorted_, DefendConfig(method="unlearning", epochs=1), no_progress).metrics
    assert len(sorted_) > seen["trigger_samples"] == 64
    assert [len(images) for images in looked] == [64] * 5
    last = torch.from_numpy(sorted_.batch(np.flatnonzero(sorted_.labels == labels.max())))
    assert any(bool((image == other).all()) for image in looked[0] for other in last)


def test_a_defended_network_comes_back_from_its_folder(planted: Planted, tmp_path: Path) -> None:
    config = DefendConfig(method="fine-pruning", max_drop=30.0, epochs=2)
    found = defend(planted.victim, planted.samples, config, no_progress)
    assert found.metrics["neurons_removed"] > 0
    # What was made zero stays zero in tuning.
    for name in found.plan.masked:
        assert bool((dict(found.network.named_parameters())[name] == 0).any())
    artifact = save_defended(found, None, tmp_path).artifact
    model = ModelConfig(factory="pipeline.zoo:residual_cnn", args={"channels": 12})
    again = load_network(model, artifact, 0)
    images = planted.images.images
    with inference(again), inference(found.network):
        torch.testing.assert_close(again(images), found.network(images))
    assert load_plan(artifact) is not None


def test_a_control_takes_as_many_as_it_is_told(planted: Planted) -> None:
    found = defend(planted.victim, planted.samples, DefendConfig(method="random", count=7), no_progress)
    assert found.metrics["neurons_removed"] == 7


def test_too_few_samples_and_nothing_to_cut_are_refused(planted: Planted) -> None:
    few = Split(planted.samples.images[:9], planted.samples.labels[:9])
    with pytest.raises(DataError, match="--clean-samples: 9 clean samples"):
        defend(planted.victim, few, DefendConfig(method="anp"), no_progress)
    single = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ModelError, match="no channels that pruning can cut"):
        defend(single, planted.samples, DefendConfig(method="anp"), no_progress)
