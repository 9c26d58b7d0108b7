"""What the genetic search is worth, and what a second worker is: `make bench-search`.

First table: NSGA-II as the product runs it against others at equal numbers of different points, on the digits network
trained for a few epochs. Hypervolume of accuracy (validation split, after BatchNorm recalibration) and MACs, between no
accuracy and the whole network's MACs; paired over seeds, and each seed has a network, a split and a search of its own.
Population and mutation were chosen on other seeds (100 to 102).

- random: the whole network, then points drawn evenly from the space of widths.
- seeded random: the same, after the points of one share that NSGA-II begins with.
- uniform: one share for all groups, evenly spaced; there are at most as many points as shares that differ.
- global: one threshold on the scores for all groups, the product's `scope = "global"`, evenly spaced in units kept.

Second table: trials per second of two Ray workers against this process alone, on the same trials in turns. The start of
Ray and of the networks is left out: one round before counts for nothing.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from devices.stage import no_progress
from devices.statistics import paired_score_difference
from pipeline.datasets.digits import digits
from pipeline.model import build_network, save_network
from pipeline.prune.allocate import Ranked, Snapping
from pipeline.prune.criteria.base import CriterionInputs
from pipeline.prune.criteria.select import score_groups
from pipeline.prune.groups import find_groups, plan_for
from pipeline.prune.macs import macs_counter
from pipeline.prune.trace import trace_network
from pipeline.recipe import FitConfig, ModelConfig, ObjectiveConfig, RecalibrateConfig, SearchConfig, TaskConfig
from pipeline.recovery.fit import fit
from pipeline.search.objectives import costs_of, covered, read_objectives
from pipeline.search.propose import Proposer
from pipeline.search.space import Indices, Space, search_space, uniform_points, units_for, unseen_point
from pipeline.search.trial import TrialSetup, load_dense, read_network_files, run_trial, split_training
from pipeline.search.workers import open_evaluation

OBJECTIVES = read_objectives(("accuracy", "macs"), ())
POPULATION, MIN_KEEP, STEP = SearchConfig().population, 0.125, 4
VALIDATION, RECALIBRATION = 300, 500


@dataclass(frozen=True)
class Problem:
    """One seed's network with its groups."""

    seed: int
    setup: TrialSetup
    dense: torch.nn.Module
    ranked: list[Ranked]
    space: Space
    macs_without: object
    known: dict[Indices, dict[str, float]]
    """Figures of points that any arm has tried: equal points have equal figures."""

    def figures(self, points: Sequence[Indices]) -> list[dict[str, float]]:
        """Judge points, each once."""
        for point in points:
            if point not in self.known:
                removed = units_for(self.space.widths(point), self.ranked)
                found = run_trial(self.setup, self.dense, plan_for(self.dense, removed))
                self.known[point] = found | {"macs": self.macs_without(removed)}  # type: ignore[operator]
        return [self.known[point] for point in points]


def make_problem(seed: int, channels: int, blocks: int, epochs: int) -> Problem:
    """Train a network for this seed and find its groups."""
    model = ModelConfig(factory="pipeline.zoo:residual_cnn", args={"channels": channels, "blocks": blocks})
    train = digits().train
    network = build_network(model, seed)
    fit(network, train, ObjectiveConfig(), FitConfig(epochs=epochs, accelerator="cpu"), seed, 1, no_progress)
    image = torch.from_numpy(train.batch(slice(0, 1)))
    grouping = find_groups(network, trace_network(network, image), image, ())
    scores = score_groups("l2", CriterionInputs(network, grouping.groups)).values
    ranked = [Ranked(group, values) for group, values in zip(grouping.groups, scores, strict=True)]
    recalibration, validation = split_training(train, VALIDATION, RECALIBRATION, seed)
    with tempfile.TemporaryDirectory() as folder:
        files = read_network_files(save_network(network, None, Path(folder)))
    setup = TrialSetup(
        model=model,
        files=files,
        recalibration=recalibration,
        validation=validation,
        task=TaskConfig(),
        objective=ObjectiveConfig(),
        recalibrate=RecalibrateConfig(samples=RECALIBRATION),
        robust=False,
        seed=seed,
    )
    space = search_space(ranked, Snapping(channel_step=STEP), MIN_KEEP)
    return Problem(seed, setup, load_dense(setup), ranked, space, macs_counter(grouping.trace), {})


def genetic(problem: Problem, trials: int) -> list[Indices]:
    """As the stage does it."""
    first = uniform_points(problem.space, POPULATION // 2, MIN_KEEP)
    proposer = Proposer(problem.space, len(OBJECTIVES), POPULATION, problem.seed, first)
    done: list[Indices] = []
    while len(done) < trials:
        points = [item.point for item in proposer.ask(min(POPULATION, trials - len(done)))]
        proposer.tell([costs_of(OBJECTIVES, figures) for figures in problem.figures(points)])
        done += points
    return done


def drawn(problem: Problem, trials: int, first: Sequence[Indices]) -> list[Indices]:
    """`first`, then chance."""
    rng = np.random.default_rng(problem.seed)
    done = list(first)
    while len(done) < trials:
        done.append(unseen_point(problem.space, set(done), rng))
    return done


def by_threshold(problem: Problem, trials: int) -> list[Indices]:
    """One threshold on the scores for all groups, snapped to the widths that there are."""
    by_group = {item.group.name: np.sort(item.scores)[::-1] for item in problem.ranked}
    scores = [by_group[axis.group] for axis in problem.space.axes]
    every = np.sort(np.concatenate(scores))
    points: dict[Indices, None] = {}
    for share in np.linspace(0, 1 - MIN_KEEP, 8 * trials):
        threshold = every[int(share * len(every))]
        kept = [int(np.count_nonzero(values >= threshold)) for values in scores]
        point = tuple(
            int(np.argmin([abs(choice - count) for choice in axis.choices]))
            for axis, count in zip(problem.space.axes, kept, strict=True)
        )
        points[point] = None
    found = list(points)
    # Evenly spaced among those that differ.
    return [found[int(index)] for index in np.unique(np.linspace(0, len(found) - 1, trials).round())]


def arms(problem: Problem, trials: int) -> Iterator[tuple[str, list[Indices]]]:
    """Each way to choose so many points."""
    first = uniform_points(problem.space, POPULATION // 2, MIN_KEEP)
    yield "genetic", genetic(problem, trials)
    yield "random", drawn(problem, trials, first[:1])
    yield "seeded random", drawn(problem, trials, first)
    yield "uniform", uniform_points(problem.space, trials, MIN_KEEP)
    yield "global", by_threshold(problem, trials)


def compare(options: argparse.Namespace) -> None:
    """Print the first table."""
    volumes: dict[str, list[float]] = {}
    points: dict[str, list[int]] = {}
    for seed in range(options.seeds):
        problem = make_problem(seed, options.channels, options.blocks, options.epochs)
        dense = problem.figures([uniform_points(problem.space, 1, MIN_KEEP)[0]])[0]
        for name, chosen in arms(problem, options.trials):
            volume = covered(OBJECTIVES, problem.figures(chosen), dense)
            assert volume is not None
            volumes.setdefault(name, []).append(volume)
            points.setdefault(name, []).append(len(chosen))
        shown = ", ".join(f"{name} {found[-1]:.4f}" for name, found in volumes.items())
        print(f"seed {seed}: dense accuracy {dense['accuracy']:.4f}; {shown}", flush=True)
    sizes = f"{len(problem.space.axes)} groups, {problem.space.size} points"
    print(f"\nhypervolume after {options.trials} trials, {options.seeds} seeds ({sizes})")
    own = np.array(volumes["genetic"])
    for name, found in volumes.items():
        line = f"{name:14} {np.mean(found):.4f}   points {min(points[name])} to {max(points[name])}"
        if name != "genetic" and options.seeds > 1:
            gain = paired_score_difference(np.array(found), own)
            ahead = int(np.count_nonzero(own > np.array(found)))
            line += f"   genetic {gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f}), ahead in {ahead}"
        print(line)


def throughput(options: argparse.Namespace) -> None:
    """Print the second table."""
    problem = make_problem(0, options.channels, options.blocks, 1)
    points = drawn(problem, options.batch, [])
    tasks = [
        (number, plan_for(problem.dense, units_for(problem.space.widths(point), problem.ranked)))
        for number, point in enumerate(points)
    ]
    rates: dict[int, list[float]] = {1: [], 2: []}
    with open_evaluation(problem.setup, 1, None) as one, open_evaluation(problem.setup, 2, None) as two:
        for turn in range(options.turns + 1):
            found = {}
            for workers, evaluate in ((1, one), (2, two)):
                started = time.perf_counter()
                found[workers] = dict(evaluate(tasks))
                if turn:
                    rates[workers].append(len(tasks) / (time.perf_counter() - started))
            assert found[1] == found[2]
    ratios = np.array(rates[2]) / np.array(rates[1])
    print(f"\ntrials per second, {len(tasks)} trials a turn, {options.turns} turns each, equal figures from both")
    print(f"this process   {np.median(rates[1]):.2f}")
    print(f"2 Ray workers  {np.median(rates[2]):.2f}")
    print(f"ratio          {np.median(ratios):.2f} (turns {ratios.min():.2f} to {ratios.max():.2f})")
    print(f"load average {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} CPUs at the end")


def main() -> None:
    """Both tables, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("search", "throughput"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32, help="trials of one turn of the second table")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.only != "throughput":
        compare(options)
    if options.only != "search":
        throughput(options)


if __name__ == "__main__":
    main()
