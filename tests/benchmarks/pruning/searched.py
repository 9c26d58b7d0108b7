"""Ours by genetic search: the widths that are right most often on a validation split, as fast as another network."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from devices.stage import no_progress
from pipeline.data import Split
from pipeline.model import NetworkArtifact, save_network
from pipeline.prune.channels import rank_groups
from pipeline.prune.groups import Unit, plan_for
from pipeline.prune.macs import macs_counter
from pipeline.prune.network import copy_network
from pipeline.prune.pruning import Pruning
from pipeline.prune.replay import apply_plan
from pipeline.prune.stage import prune_network
from pipeline.recipe import ModelConfig, ObjectiveConfig, PruneConfig, RecalibrateConfig, SearchConfig, TaskConfig
from pipeline.search.stage import SearchInputs, search_widths
from pipeline.search.study import Limit, choose_point, read_study
from tests.benchmarks.pruning import networks
from tests.benchmarks.pruning.measure import build_engine, side_by_side
from tests.benchmarks.pruning.plan import Plan
from tests.benchmarks.pruning.rebuild import rebuild

NAME = "resnet20"
_TIMES = "latency_ratio"
_POPULATION = 12
_VALIDATION = 2000
_MIN_KEEP = 0.25


def settings(plan: Plan) -> dict[str, Any]:
    """What decides a search beside the networks."""
    return {"trials": plan.trials, "population": _POPULATION, "validation": _VALIDATION, "min_keep": _MIN_KEEP}


def as_fast_as(plan: Plan, dense: Path, other: Path, images: Path, folder: Path) -> dict[str, Any]:
    """Search widths by accuracy (training images set aside, BatchNorm anew, no training) and measured latency.

    Prunes to the most accurate trial whose median latency is at most the other's, into `folder`.
    """
    network = rebuild(NAME, dense)
    pruning = Pruning(
        network=network, image_NCHW=networks.fixed_images(NAME, 1), channel_step=plan.channel_step, precision="fp32"
    )
    config = PruneConfig(target_macs=0.5, **plan.prune)
    ranking = rank_groups(config, pruning)
    inputs = SearchInputs(
        model=ModelConfig(factory="tests.benchmarks.pruning.networks:build", args={"name": NAME}),
        artifact=NetworkArtifact(dense),
        network=network,
        ranked=ranking.ranked,
        snapping=ranking.snapping,
        macs_without=macs_counter(ranking.grouping.trace),
        train=_training(images),
        task=TaskConfig(),
        objective=ObjectiveConfig(),
        recalibrate=RecalibrateConfig(),
        seed=0,
        measures={_TIMES: _times_as_slow(plan, network, other, folder.with_name(f"{folder.name}-trials"))},
    )
    population = min(_POPULATION, plan.trials)
    search = SearchConfig(
        trials=plan.trials,
        population=population,
        objectives=("accuracy", _TIMES),
        validation_samples=_VALIDATION,
        min_keep=_MIN_KEEP,
    )
    study = folder.with_name(f"{folder.name}-study")
    study.mkdir(parents=True, exist_ok=True)
    search_widths(search, inputs, study, study / "journal.jsonl", no_progress)
    chosen = choose_point(read_study(study), "nearest", Limit(_TIMES, 1.0))
    shutil.rmtree(folder, ignore_errors=True)
    found = prune_network(
        config,
        Pruning(
            network=network,
            image_NCHW=pruning.image_NCHW,
            channel_step=plan.channel_step,
            precision="fp32",
            widths=chosen.keep,
        ),
        folder,
    )
    return {**found.metrics, "chosen": chosen.name, "figures": dict(chosen.metrics)}


def _training(folder: Path) -> Split:
    images = np.load(folder / "train_images.npy")
    return Split(images, np.load(folder / "train_labels.npy"))


def _times_as_slow(plan: Plan, network: Any, other: Path, scratch: Path) -> Callable[[Sequence[Unit]], float]:
    """Median latency over the other's, both in FP32 and interleaved, of the network without these units."""
    reference = build_engine(NAME, other)
    numbers = itertools.count()

    def measure(removed: Sequence[Unit]) -> float:
        place = scratch / str(next(numbers))
        shutil.rmtree(place, ignore_errors=True)
        smaller, found = copy_network(network).eval(), plan_for(network, removed)
        apply_plan(smaller, found)
        save_network(smaller, found, place)
        engines = {"other": reference, "ours": build_engine(NAME, place)}
        gain = side_by_side(engines, "other", plan.search_duration_s / 3)["ours"]["gain"]["value"]
        shutil.rmtree(place)
        return 1 / float(gain)

    return measure
