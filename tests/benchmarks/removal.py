"""What removal leaves of planted backdoors: networks of the digits, or a ResNet-20 on CIFAR-10."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import nn

from devices.stage import no_progress
from devices.statistics import Interval, wilson
from pipeline.data import Dataset, Split
from pipeline.datasets.digits import digits
from pipeline.datasets.image_folder import image_folder
from pipeline.model import build_network, load_checkpoint
from pipeline.recipe import FitConfig, read_recipe
from pipeline.threats.kit.success import answers_of, right_of
from pipeline.threats.kit.victim import train_clean
from pipeline.threats.remove.defend import DefendConfig, Method, defend
from tests.benchmarks.accelerated import accelerated
from tests.benchmarks.planted import FIT, fresh, hits, poisoned

METHODS: tuple[Method, ...] = ("anp", "rnp", "fine-pruning", "unlearning")
_RECIPE = Path(__file__).parent.parent.parent / "recipes" / "cifar10-resnet20.toml"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One table."""

    title: str
    dataset: Dataset
    kinds: tuple[str, ...]
    clean_samples: int
    start: Callable[[int], nn.Module]
    """Weights that a victim of this seed is trained from."""
    victim: FitConfig
    fresh: Callable[[int], nn.Module]
    """Initial weights by a seed, of the control that is trained from scratch."""
    scratch: FitConfig


@dataclass
class Pooled:
    """Answers of all seeds: which attacks succeeded, which clean images were right."""

    hits: list[bool] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)


def of_digits(channels: int) -> Setting:
    """Small residual networks, trained on poisoned digits from initial weights."""
    return Setting(
        title=f"digits, {channels} channels",
        dataset=digits(),
        kinds=("patch", "blended", "sinusoidal"),
        clean_samples=50,
        start=lambda seed: fresh(seed, channels),
        victim=FIT,
        fresh=lambda seed: fresh(seed + 500, channels),
        scratch=FitConfig(epochs=60, batch_size=16, learning_rate=0.05),
    )


def of_cifar(data: str, weights: Path) -> Setting:
    """A trained ResNet-20, tuned on poisoned CIFAR-10."""
    recipe = read_recipe(_RECIPE, [])

    def trained(_seed: int) -> nn.Module:
        network = build_network(recipe.model, 0, recipe.task)
        load_checkpoint(network, weights)
        return network

    return Setting(
        title="CIFAR-10, ResNet-20",
        dataset=image_folder(data),
        kinds=("patch", "blended", "warped"),
        clean_samples=500,
        start=trained,
        victim=FitConfig(epochs=2, batch_size=128, learning_rate=0.02, precision="bf16"),
        fresh=lambda seed: build_network(recipe.model, seed, recipe.task),
        scratch=FitConfig(epochs=60, batch_size=32, learning_rate=0.05, augment="crop_flip"),
    )


def removal_table(setting: Setting, seeds: range, kinds: Sequence[str], methods: Sequence[str]) -> None:
    """Attack success and clean accuracy after each method, from a few clean samples."""
    rows: dict[tuple[str, str], Pooled] = {}
    neurons = 0
    for kind in kinds:
        for seed in seeds:
            train, attacks = poisoned(kind, setting.dataset, seed)
            shown = Dataset(train, setting.dataset.test, setting.dataset.class_names)
            victim = train_clean(setting.start(seed), shown, setting.victim, seed)
            clean, judged = parts(setting.dataset.test, seed, setting.clean_samples)
            for method, found, removed, of in defended(setting, victim, clean, seed, methods):
                network = accelerated(found)
                row = rows.setdefault((kind, method), Pooled())
                for attack in attacks:
                    row.hits += hits(network, judged, attack)
                row.right += right_of(answers_of(network), judged).tolist()
                row.removed.append(removed)
                neurons = max(neurons, of)
                told = f"{kind}, seed {seed}, {method}: attack {percent(row.hits)}, clean {percent(row.right)}"
                print(told, file=sys.stderr, flush=True)
    samples = f"{setting.clean_samples} clean samples of {len(setting.dataset.test)} test images, the others judge"
    print(f"\nRemoval, {setting.title}, {samples}, {len(seeds)} networks a row, {neurons} neurons each\n")
    print("| trigger | method | neurons removed | attack success | clean accuracy |\n|---|---|---|---|---|")
    for (kind, method), row in rows.items():
        gone = f"{np.mean(row.removed):.0f}" if any(row.removed) else "-"
        print(f"| {kind} | {method} | {gone} | {percent(row.hits)} | {percent(row.right)} |")


def parts(test: Split, seed: int, count: int) -> tuple[Split, Split]:
    """Clean samples for the defence, and the images that judge it."""
    order = np.random.default_rng(seed).permutation(len(test))
    own, rest = order[:count], order[count:]
    return Split(test.images[own], test.labels[own]), Split(test.images[rest], test.labels[rest])


def defended(
    setting: Setting, victim: nn.Module, clean: Split, seed: int, methods: Sequence[str]
) -> Iterator[tuple[str, nn.Module, int, int]]:
    """The victim, what each method makes of it, and the controls; with the neurons removed, and of how many."""
    yield "none (the victim)", victim, 0, 0
    anp_count = 0
    for method in (item for item in METHODS if item in methods):
        found = defend(victim, clean, DefendConfig(method=method, seed=seed), no_progress)
        removed = found.metrics.get("neurons_removed", 0)
        anp_count = removed if method == "anp" else anp_count
        yield method, found.network, removed, found.metrics.get("neurons", 0)
    if "anp" in methods:
        found = defend(victim, clean, DefendConfig(method="random", count=anp_count, seed=seed), no_progress)
        yield "control: random, as many as anp", found.network, anp_count, 0
    found = defend(victim, clean, DefendConfig(method="finetune", seed=seed), no_progress)
    yield "control: fine-tuning alone", found.network, 0, 0
    few = Dataset(clean, clean, setting.dataset.class_names)
    yield "control: from scratch", train_clean(setting.fresh(seed), few, setting.scratch, seed), 0, 0


def percent(flags: list[bool]) -> str:
    """Share with Wilson's interval, in percent."""
    found: Interval = wilson(sum(flags), len(flags))
    return f"{100 * found.value:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"
