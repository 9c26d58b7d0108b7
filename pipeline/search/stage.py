"""The search stage: which widths give the best accuracy for their cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from devices.errors import DeviceError
from devices.files import digest_bytes, digest_value, write_json
from devices.profile import Precision
from devices.stage import Progress, StageResult
from pipeline.data import Split
from pipeline.model import NetworkArtifact
from pipeline.prune.allocate import Ranked, Snapping
from pipeline.prune.budget import size_counter
from pipeline.prune.groups import Unit
from pipeline.recipe import ModelConfig, ObjectiveConfig, RecalibrateConfig, SearchConfig, TaskConfig, section_of
from pipeline.search.crew import LostError
from pipeline.search.front import pareto_front, trial_name
from pipeline.search.generations import Done, Measure, Search
from pipeline.search.journal import open_journal
from pipeline.search.objectives import Objective, costs_of, covered, read_objectives
from pipeline.search.propose import Proposer
from pipeline.search.space import Space, search_space, uniform_points
from pipeline.search.study import FORMAT, STUDY_FILE
from pipeline.search.trial import TrialSetup, read_network_files, split_training
from pipeline.search.workers import open_evaluation


@dataclass(frozen=True, kw_only=True)
class SearchInputs:
    """Inputs of the stage beside the recipe's section. Nothing given is changed."""

    model: ModelConfig
    artifact: NetworkArtifact
    """The dense network on disk."""
    network: nn.Module
    """The same, loaded."""
    ranked: Sequence[Ranked]
    """Its groups, with the scores that say which units of a group go first."""
    snapping: Snapping
    macs_without: Callable[[Sequence[Unit]], int]
    train: Split
    """Training images; the test split has no place here."""
    task: TaskConfig
    objective: ObjectiveConfig
    recalibrate: RecalibrateConfig
    seed: int
    precision: Precision
    """Of the engine that ships: `size_bytes` is counted in it."""
    measures: Mapping[str, Measure] = field(default_factory=dict)
    """Figures that are measured here and one at a time, by name, such as `latency_ms`."""


@dataclass(frozen=True)
class SearchArtifact:
    """A folder with `study.json`."""

    folder: Path


def search_widths(
    config: SearchConfig, inputs: SearchInputs, folder: Path, journal: Path, progress: Progress
) -> StageResult[SearchArtifact]:
    """Try points of the space of widths by NSGA-II and write them all with their Pareto front.

    The study follows from the inputs and the trials' figures alone, however many workers there are and however often it
    was stopped: figures are kept in `journal`, a file outside of `folder` that outlives a kill. The first trial is the
    whole network. Raises `RecipeError` for an objective that is not there or a library that is not installed,
    `ModelError` when there is nothing to search, `DeviceError` when Ray does not start or goes away, `StorageError`.
    """
    started = time.perf_counter()
    objectives = read_objectives(config.objectives, inputs.measures)
    space = search_space(inputs.ranked, inputs.snapping, config.min_keep)
    total = min(config.trials, space.size)
    setup = _setup(config, inputs)
    with (
        open_journal(journal, _identity(config, inputs, space, setup)) as kept,
        open_evaluation(setup, min(config.workers, total), config.address) as evaluate,
    ):
        search = Search(
            space=space,
            objectives=objectives,
            total=total,
            network=inputs.network,
            ranked=inputs.ranked,
            counts={"macs": inputs.macs_without, "size_bytes": size_counter(inputs.network, inputs.precision)},
            measures={name: inputs.measures[name] for name in config.objectives if name in inputs.measures},
            journal=kept,
            evaluate=evaluate,
            progress=progress,
        )
        try:
            done = search.run(_proposer(config, space, inputs.seed), config.population)
        except LostError as cause:
            raise DeviceError(
                "search",
                f"stopped after {search.finished} of {total} trials: {cause}",
                "Run the same command again: it goes on from there",
            ) from cause
    seconds = time.perf_counter() - started
    metrics = {
        "trials": total,
        **_write_study(folder / STUDY_FILE, config, inputs, space, objectives, done),
        **_sizes(config, inputs, space, setup),
        "trials_run": search.ran,
        "seconds": seconds,
        "trials_per_s": search.ran / seconds,
    }
    return StageResult(SearchArtifact(folder), metrics)


def _sizes(config: SearchConfig, inputs: SearchInputs, space: Space, setup: TrialSetup) -> dict[str, Any]:
    """What was searched, and on how many images each trial was judged."""
    return {
        "objectives": list(config.objectives),
        "points": space.size if space.size < 2**53 else None,
        "validation_samples": len(setup.validation),
        "recalibration_samples": len(setup.recalibration) if inputs.recalibrate.samples else 0,
    }


def _write_study(
    path: Path,
    config: SearchConfig,
    inputs: SearchInputs,
    space: Space,
    objectives: Sequence[Objective],
    done: Sequence[Done],
) -> dict[str, float | None]:
    """Every trial, and which of them nothing beats; returns how many those are, and the hypervolume."""
    figures = [item.figures for item in done]
    front = set(pareto_front([costs_of(objectives, row) for row in figures]))
    volume = covered(objectives, figures, figures[0])
    content = {
        "format": FORMAT,
        "objectives": list(config.objectives),
        "seed": inputs.seed,
        "population": config.population,
        "groups": [{"name": a.group, "width": a.width, "choices": list(a.choices)} for a in space.axes],
        "hypervolume": volume,
        "trials": [_row(space, number, item, number in front) for number, item in enumerate(done)],
    }
    write_json(path, content)
    return {"front": len(front), "hypervolume": volume}


def _setup(config: SearchConfig, inputs: SearchInputs) -> TrialSetup:
    recalibration, validation = split_training(
        inputs.train, config.validation_samples, inputs.recalibrate.samples, inputs.seed
    )
    return TrialSetup(
        model=inputs.model,
        files=read_network_files(inputs.artifact),
        recalibration=recalibration,
        validation=validation,
        task=inputs.task,
        objective=inputs.objective,
        recalibrate=inputs.recalibrate,
        robust="robust_accuracy" in config.objectives,
        seed=inputs.seed,
    )


def _proposer(config: SearchConfig, space: Space, seed: int) -> Proposer:
    # The sampler knows nothing of the network, and many groups drawn by chance all keep about half on average: points
    # of one share show it both ends. Not more than half, so that the first generation is no line.
    first = uniform_points(space, max(1, config.population // 2), config.min_keep)
    return Proposer(space, len(config.objectives), config.population, seed, first)


def _identity(config: SearchConfig, inputs: SearchInputs, space: Space, setup: TrialSetup) -> str:
    """Digest of what decides the figures of a trial and which trials there are, but for their number."""
    free = {"trials", "workers", "address", "choose"}
    return digest_value(
        {
            "search": {key: value for key, value in section_of(config).items() if key not in free},
            "space": [[axis.group, axis.width, list(axis.choices)] for axis in space.axes],
            "scores": [digest_bytes(item.scores.tobytes()) for item in inputs.ranked],
            "files": {name: digest_bytes(content) for name, content in setup.files.items()},
            "images": [digest_bytes(split.images.tobytes()) for split in (setup.recalibration, setup.validation)],
            "sections": [
                section_of(part) for part in (inputs.model, inputs.task, inputs.objective, inputs.recalibrate)
            ],
            "seed": inputs.seed,
            "precision": inputs.precision,
        }
    )


def _row(space: Space, number: int, done: Done, on_front: bool) -> dict[str, object]:
    return {
        "name": trial_name(number),
        "origin": done.proposal.origin,
        "widths": space.widths(done.proposal.point),
        "keep": space.keep_ratios(done.proposal.point),
        "metrics": done.figures,
        "on_front": on_front,
    }
