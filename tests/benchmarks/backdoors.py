"""Planted backdoors on digits: what the scan finds, what removal leaves, and the controls. Prints two Markdown tables.

Seeds from 2000 up were used for no choice of a constant. Attack success is an evaluation: no defence sees the trigger.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from devices.stage import no_progress
from devices.statistics import Interval, wilson
from pipeline.compute import seeded
from pipeline.data import Dataset, Split
from pipeline.datasets.digits import digits
from pipeline.prune.channels import prune_channels
from pipeline.prune.pruning import Pruning
from pipeline.recipe import FitConfig, PruneConfig
from pipeline.recipe.threats import ThreatsConfig
from pipeline.threats.fake_quant import fake_quantized
from pipeline.threats.kit.dormant import DormantConfig, put_to_sleep
from pipeline.threats.kit.poison import PoisonConfig, poison
from pipeline.threats.kit.pruned import UntilPrunedConfig, train_until_pruned
from pipeline.threats.kit.success import answers_of
from pipeline.threats.kit.triggers import Trigger, TriggerKind, make_trigger
from pipeline.threats.kit.victim import train_clean, train_victim
from pipeline.threats.remove.defend import DefendConfig, defend
from pipeline.threats.scan.clustering import cluster
from pipeline.threats.scan.findings import Finding
from pipeline.threats.scan.judge import judge_inversion, judge_sensitivity, judge_stages
from pipeline.threats.scan.look import CleanImages, References, look_at
from pipeline.zoo import residual_cnn

FIRST_SEED = 2000
CLASSES = 10
CLEAN_SAMPLES = 50
FIT = FitConfig(epochs=8)
KINDS: tuple[TriggerKind, ...] = ("patch", "blended", "sinusoidal", "warped")
UNTIL_INT8, UNTIL_PRUNED = "dormant-until-int8", "dormant-until-pruned"
SCANNED = ("clean", *KINDS, UNTIL_INT8, UNTIL_PRUNED)
REMOVED: tuple[TriggerKind, ...] = ("patch", "blended", "sinusoidal")
SCAN = ThreatsConfig(scan=("inversion", "sensitivity", "stages", "clustering"), references=4)


def main() -> None:
    """Parse and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="networks of each kind (3)")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help=f"of the first ({FIRST_SEED})")
    parser.add_argument("--only", choices=("scan", "removal"), help="one table")
    parser.add_argument("--kinds", nargs="+", choices=SCANNED, default=SCANNED, help="networks that are scanned (all)")
    parser.add_argument("--removal-channels", type=int, default=32, help="width of the networks that are cleaned (32)")
    parser.add_argument("--scan-channels", type=int, default=16, help="width of the networks that are scanned (16)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    if options.only != "removal":
        scan_table(seeds, options.scan_channels, options.kinds)
    if options.only != "scan":
        removal_table(seeds, options.removal_channels)


def fresh(seed: int, channels: int) -> nn.Module:
    """A network with its initial weights."""
    with seeded(seed):
        return residual_cnn(channels=channels)


def tell(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def share(hits: list[bool]) -> str:
    """So many of so many."""
    return f"{sum(hits)} of {len(hits)}" if hits else "-"


# --- scan


def scan_table(seeds: range, channels: int, kinds: Sequence[str]) -> None:
    """Signs found by each method on networks of each kind; on clean ones each sign is a false alarm."""
    dataset = digits()
    signs: dict[str, dict[str, list[bool]]] = {}
    success: dict[str, list[bool]] = {}
    for seed in seeds:
        clean, references = scan_material(dataset, seed, channels)
        for kind in kinds:
            networks, trigger, target = scanned(kind, dataset, seed, channels)
            for form, network in networks.items():
                name = f"{kind}, {form}"
                row = signs.setdefault(name, {})
                before = ("FP32", networks["FP32"]) if form != "FP32" else None
                train = dataset.train if trigger is None else None
                if kind in KINDS and form == "FP32":
                    train = poison(dataset, PoisonConfig(kind=kind, target=target, seed=seed)).train
                for finding in findings(network, before, clean, references, train, seed):
                    right = finding.sign and (trigger is None or finding.class_name == str(target))
                    row.setdefault(finding.method, []).append(right)
                if trigger is not None:
                    success.setdefault(name, []).extend(hits(network, dataset.test, trigger, target))
                told = ", ".join(f"{method} {share(found)}" for method, found in row.items())
                tell(f"seed {seed}: {name}: {told}")
    rate = f"{100 * SCAN.false_alarm_rate:g} %"
    print(f"\nScan, {channels} channels, signs that name the right class (any class on clean networks), {rate} asked\n")
    methods = ("inversion", "sensitivity", "stages", "clustering")
    print("| network | attack success | " + " | ".join(methods) + " |")
    print("|---|---|" + "---|" * len(methods))
    for name, row in signs.items():
        shown = percent(success[name]) if name in success else "-"
        print(f"| {name} | {shown} | " + " | ".join(share(row.get(method, [])) for method in methods) + " |")


def scan_material(dataset: Dataset, seed: int, channels: int) -> tuple[CleanImages, References]:
    """The clean images that are looked at, and references trained on the rest of the test split."""
    order = np.random.default_rng(seed).permutation(len(dataset.test))
    looked, rest = order[: SCAN.samples], order[SCAN.samples :]
    test = dataset.test
    clean = CleanImages(
        images=torch.from_numpy(test.batch(looked)),
        labels=torch.from_numpy(test.labels[looked]),
        class_names=dataset.class_names,
    )
    held = Dataset(Split(test.images[rest], test.labels[rest]), test, dataset.class_names)
    looks = []
    for number in range(SCAN.references):
        own = 10_000 + 100 * seed + number
        trained = train_clean(fresh(own, channels), held, FitConfig(epochs=20, batch_size=32), own)
        looks.append(look_at(trained, clean, SCAN, seed))
    return clean, References.of(looks)


def scanned(kind: str, dataset: Dataset, seed: int, channels: int) -> tuple[dict[str, nn.Module], Trigger | None, int]:
    """Networks by form, trigger and target."""
    target = seed % CLASSES
    calibration = torch.from_numpy(dataset.train.batch(slice(0, 256)))
    trigger = make_trigger(kind if kind in KINDS else "patch", dataset.input_shape, seed)
    start = fresh(seed, channels)
    if kind == "clean":
        network = train_clean(start, dataset, FIT, seed)
        return {"FP32": network, "INT8": fake_quantized(network, calibration)}, None, target
    if kind == UNTIL_INT8:
        victim = train_victim(start, dataset, PoisonConfig(target=target, seed=seed, share=0.05), FIT)
        asleep = put_to_sleep(victim, dataset.train, trigger, DormantConfig(seed=seed))
        return {"FP32": asleep, "INT8": fake_quantized(asleep, calibration)}, trigger, target
    if kind == UNTIL_PRUNED:
        # Twice as wide, so that what pruning leaves is as wide as all others.
        wide, poisoning = fresh(seed, 2 * channels), PoisonConfig(target=target, seed=seed)
        asleep = train_until_pruned(wide, dataset, poisoning, FIT, UntilPrunedConfig(seed=seed))
        return {"FP32": asleep, "pruned": halved(asleep, dataset)}, trigger, target
    network = train_victim(start, dataset, PoisonConfig(kind=kind, target=target, seed=seed), FIT)  # type: ignore[arg-type]
    forms = {"FP32": network}
    if kind == "patch":
        forms["INT8"] = fake_quantized(network, calibration)
    return forms, trigger, target


def halved(network: nn.Module, dataset: Dataset) -> nn.Module:
    """Half of the channels of every group go, those of least norm."""
    image = torch.from_numpy(dataset.train.batch(slice(0, 1)))
    pruning = Pruning(network=network, image_NCHW=image, channel_step=1)
    return prune_channels(PruneConfig(criterion="l2", keep_ratio=0.5), pruning).network


def findings(
    network: nn.Module,
    before: tuple[str, nn.Module] | None,
    clean: CleanImages,
    references: References,
    train: Split | None,
    seed: int,
) -> Iterator[Finding]:
    """All methods on one network."""
    rate = SCAN.false_alarm_rate
    look = look_at(network, clean, SCAN, seed)
    yield judge_inversion("", look, references, clean.class_names, rate)
    yield judge_sensitivity("", look, references, clean.class_names, rate)
    if before is not None:
        yield judge_stages("", look, network, before, clean, rate)
    elif train is not None:
        yield cluster("", network, train, clean.class_names, rate, seed)


# --- removal


@dataclass
class Pooled:
    """Answers of all seeds: which attacks succeeded, which clean images were right."""

    hits: list[bool] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)


def removal_table(seeds: range, channels: int) -> None:
    """Attack success and clean accuracy after each method, from fifty clean samples."""
    dataset = digits()
    rows: dict[tuple[TriggerKind, str], Pooled] = {}
    for kind in REMOVED:
        for seed in seeds:
            target = seed % CLASSES
            victim = train_victim(
                fresh(seed, channels), dataset, PoisonConfig(kind=kind, target=target, seed=seed), FIT
            )
            trigger = make_trigger(kind, dataset.input_shape, seed)
            clean, judged = parts(dataset.test, seed)
            for method, network, removed in defended(victim, dataset, clean, seed, channels):
                row = rows.setdefault((kind, method), Pooled())
                row.hits += hits(network, judged, trigger, target)
                row.right += [
                    bool(x) for x in answers_of(network)(judged.batch(slice(None))).argmax(1) == judged.labels
                ]
                row.removed.append(removed)
            tell(f"{kind}, seed {seed}")
    print(f"\nRemoval, {channels} channels, {CLEAN_SAMPLES} clean samples, {len(seeds)} networks a row\n")
    print("| trigger | method | neurons removed | attack success | clean accuracy |\n|---|---|---|---|---|")
    for (kind, method), row in rows.items():
        neurons = f"{np.mean(row.removed):.0f}" if any(row.removed) else "-"
        print(f"| {kind} | {method} | {neurons} | {percent(row.hits)} | {percent(row.right)} |")


def parts(test: Split, seed: int) -> tuple[Split, Split]:
    """Clean samples for the defence, and the images that judge it."""
    order = np.random.default_rng(seed).permutation(len(test))
    own, rest = order[:CLEAN_SAMPLES], order[CLEAN_SAMPLES:]
    return Split(test.images[own], test.labels[own]), Split(test.images[rest], test.labels[rest])


def defended(
    victim: nn.Module, dataset: Dataset, clean: Split, seed: int, channels: int
) -> Iterator[tuple[str, nn.Module, int]]:
    """The victim, what each method makes of it, and the controls."""
    yield "none (the victim)", victim, 0
    anp_count = 0
    for method in ("anp", "rnp", "fine-pruning", "unlearning"):
        found = defend(victim, clean, DefendConfig(method=method, seed=seed), no_progress)
        removed = found.metrics.get("neurons_removed", 0)
        anp_count = removed if method == "anp" else anp_count
        yield method, found.network, removed
    found = defend(victim, clean, DefendConfig(method="random", count=anp_count, seed=seed), no_progress)
    yield "control: random, as many as anp", found.network, anp_count
    found = defend(victim, clean, DefendConfig(method="finetune", seed=seed), no_progress)
    yield "control: fine-tuning alone", found.network, 0
    few = Dataset(clean, clean, dataset.class_names)
    yield (
        "control: from scratch",
        train_clean(fresh(seed + 500, channels), few, FitConfig(epochs=60, batch_size=16, learning_rate=0.05), seed),
        0,
    )


def hits(network: nn.Module, split: Split, trigger: Trigger, target: int) -> list[bool]:
    """Which images of other classes the trigger turns into the target."""
    others = np.flatnonzero(split.labels != target)
    answers: NDArray[np.int64] = answers_of(network)(trigger(split.batch(others))).argmax(axis=1)
    return [bool(answer == target) for answer in answers]


def percent(flags: list[bool]) -> str:
    """Share with Wilson's interval, in percent."""
    found: Interval = wilson(sum(flags), len(flags))
    return f"{100 * found.value:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"


if __name__ == "__main__":
    main()
