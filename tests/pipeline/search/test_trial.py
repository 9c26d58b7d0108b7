"""One trial: what it is judged by, and that it changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from devices.errors import DataError
from pipeline.data import Split
from pipeline.datasets.digits import digits
from pipeline.prune.groups import plan_for
from pipeline.prune.network import copy_network
from pipeline.prune.plan import PruningPlan
from pipeline.prune.replay import apply_plan
from pipeline.prune.size import count_parameters
from pipeline.recipe import ObjectiveConfig, RecalibrateConfig, TaskConfig
from pipeline.recovery.recalibrate import recalibrate
from pipeline.search.trial import TrialSetup, load_dense, read_network_files, run_trial, split_training
from tests.pipeline.search.parts import search_inputs, training_images


def _setup(folder: Path, **changes: object) -> TrialSetup:
    inputs = search_inputs(folder)
    recalibration, validation = split_training(inputs.train, 50, 60, 0)
    setup = TrialSetup(
        model=inputs.model,
        files=read_network_files(inputs.artifact),
        recalibration=recalibration,
        validation=validation,
        task=TaskConfig(),
        objective=ObjectiveConfig(),
        recalibrate=RecalibrateConfig(samples=60),
        robust=False,
        seed=0,
    )
    return replace(setup, **changes)  # type: ignore[arg-type]


def test_it_is_judged_as_by_hand(tmp_path: Path) -> None:
    setup, inputs = _setup(tmp_path), search_inputs(tmp_path)
    plan = plan_for(inputs.network, [unit for item in inputs.ranked for unit in item.lowest(3)])
    figures = run_trial(setup, load_dense(setup), plan)
    network = copy_network(inputs.network)
    apply_plan(network, plan)
    recalibrate(network, setup.recalibration, setup.objective, setup.recalibrate, 0, 1)
    with torch.no_grad():
        logits = network(torch.from_numpy(setup.validation.batch(slice(None))))
    labels = torch.from_numpy(setup.validation.labels)
    assert figures["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()), abs=1e-6)
    assert figures["loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-6)
    assert figures["parameters"] == count_parameters(network) < count_parameters(inputs.network)
    assert "robust_accuracy" not in figures


def test_the_dense_network_and_torch_s_settings_stay_as_they_were(tmp_path: Path) -> None:
    setup, inputs = _setup(tmp_path), search_inputs(tmp_path)
    dense = load_dense(setup)
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    threads = torch.get_num_threads()
    plan = plan_for(inputs.network, inputs.ranked[0].lowest(4))
    one, again = (run_trial(setup, dense, plan) for _ in range(2))
    assert one == again
    assert torch.get_num_threads() == threads
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.state_dict().items())


def test_batch_norm_is_recalibrated(tmp_path: Path) -> None:
    setup = _setup(tmp_path)
    without = replace(setup, recalibrate=RecalibrateConfig(samples=0))
    dense = load_dense(setup)
    assert run_trial(setup, dense, PruningPlan())["loss"] != run_trial(without, dense, PruningPlan())["loss"]


def test_robust_accuracy_falls_with_the_attack_s_strength(tmp_path: Path) -> None:
    """Of a network that is trained: one that is not is right by chance, attacked or not."""
    inputs = search_inputs(tmp_path)
    network = copy_network(inputs.network).train()
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    images, labels = (torch.from_numpy(part) for part in (inputs.train.images, inputs.train.labels))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(40):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    setup = _setup(tmp_path, robust=True)
    found = []
    for epsilon in (1e-6, 0.1, 0.3):
        objective = ObjectiveConfig(epsilon=epsilon, steps=3, step_size=epsilon)
        figures = run_trial(replace(setup, objective=objective), network, PruningPlan())
        assert figures["robust_accuracy"] <= figures["accuracy"]
        found.append(figures["robust_accuracy"])
    assert found[0] > 0.9
    assert found[0] > found[1] > found[2]


def test_a_network_without_finite_logits_is_judged_worst(tmp_path: Path) -> None:
    setup = _setup(tmp_path, robust=True)
    dense = load_dense(setup)
    with torch.no_grad():
        dense.get_parameter("classifier.bias")[0] = float("nan")
    figures = run_trial(setup, dense, PruningPlan())
    assert (figures["accuracy"], figures["robust_accuracy"]) == (0.0, 0.0)
    assert np.isfinite(figures["loss"])


def test_images_to_judge_by_are_training_images_that_nothing_else_uses() -> None:
    train = training_images()
    recalibration, validation = split_training(train, 40, 1000, 3)
    assert (len(recalibration), len(validation)) == (80, 40)
    parts = [{image.tobytes() for image in part.images} for part in (recalibration, validation, digits().test)]
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]
    again = split_training(train, 40, 1000, 3)[1]
    assert np.array_equal(again.images, validation.images)
    assert not np.array_equal(split_training(train, 40, 1000, 4)[1].images, validation.images)


def test_half_of_the_images_are_judged_by_at_most() -> None:
    recalibration, validation = split_training(training_images(), 5000, 10, 0)
    assert (len(recalibration), len(validation)) == (10, 60)
    one = Split(training_images().images[:1], training_images().labels[:1])
    with pytest.raises(DataError, match="one training image"):
        split_training(one, 10, 10, 0)
