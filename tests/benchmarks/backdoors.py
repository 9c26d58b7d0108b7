"""Planted backdoors on digits: what the scan finds, what removal leaves, and the controls. Prints two Markdown tables.

Seeds from 2000 up were used for no choice of a constant. Attack success is an evaluation: no defence sees the trigger.
With `--data` and `--weights`, removal is of a ResNet-20 on CIFAR-10, and nothing is scanned.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.data import Dataset, Split
from pipeline.datasets.digits import digits
from pipeline.recipe import FitConfig
from pipeline.recipe.threats import ThreatsConfig
from pipeline.threats.kit.victim import train_clean
from pipeline.threats.scan.clustering import cluster
from pipeline.threats.scan.findings import Finding
from pipeline.threats.scan.judge import judge_inversion, judge_sensitivity, judge_stages, judge_warping
from pipeline.threats.scan.look import CleanImages, References, look_at
from tests.benchmarks.planted import FOUR_PATCHES, KINDS, PLANTED, fresh, hits, plant
from tests.benchmarks.removal import METHODS, of_cifar, of_digits, percent, removal_table

FIRST_SEED = 2000
SCAN = ThreatsConfig(scan=("inversion", "warping", "sensitivity", "stages", "clustering"), references=4)


def main() -> None:
    """Parse and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="networks of each kind (3)")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help=f"of the first ({FIRST_SEED})")
    parser.add_argument("--only", choices=("scan", "removal"), help="one table")
    parser.add_argument("--kinds", nargs="+", choices=PLANTED, default=PLANTED, help="networks that are scanned (all)")
    parser.add_argument("--removal-channels", type=int, default=32, help="width of the networks that are cleaned (32)")
    parser.add_argument("--scan-channels", type=int, default=16, help="width of the networks that are scanned (16)")
    parser.add_argument(
        "--triggers", nargs="+", choices=(*KINDS, FOUR_PATCHES), help="of the networks that are cleaned (the table's)"
    )
    parser.add_argument("--defences", nargs="+", choices=METHODS, default=METHODS, help="that clean them (all)")
    parser.add_argument(
        "--methods", nargs="+", choices=SCAN.scan, default=SCAN.scan, help="that scan; stages needs inversion (all)"
    )
    parser.add_argument("--data", help="archive of CIFAR-10 images")
    parser.add_argument("--weights", type=Path, help="weights of a ResNet-20 for them")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    if options.only != "removal" and not options.data:
        config = SCAN.model_copy(update={"scan": tuple(options.methods)})
        scan_table(seeds, options.scan_channels, options.kinds, config)
    if options.only != "scan":
        setting = of_cifar(options.data, options.weights) if options.data else of_digits(options.removal_channels)
        removal_table(setting, seeds, options.triggers or setting.kinds, options.defences)


def tell(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def share(hits: list[bool]) -> str:
    """So many of so many."""
    return f"{sum(hits)} of {len(hits)}" if hits else "-"


# --- scan


def scan_table(seeds: range, channels: int, kinds: Sequence[str], config: ThreatsConfig) -> None:
    """Signs found by each method on networks of each kind; on clean ones each sign is a false alarm."""
    dataset = digits()
    signs: dict[str, dict[str, list[bool]]] = {}
    success: dict[str, list[bool]] = {}
    for seed in seeds:
        clean, references = scan_material(dataset, seed, channels, config)
        for kind in kinds:
            planted = plant(kind, dataset, seed, channels)
            for form, network in planted.forms.items():
                name = f"{kind}, {form}"
                row = signs.setdefault(name, {})
                before = ("FP32", planted.forms["FP32"]) if form != "FP32" else None
                train = planted.train if form == "FP32" else None
                for finding in findings(network, before, clean, references, train, seed, config):
                    right = finding.sign and planted.is_right(finding.class_name)
                    row.setdefault(finding.method, []).append(right)
                for attack in planted.attacks:
                    success.setdefault(name, []).extend(hits(network, dataset.test, attack))
                told = ", ".join(f"{method} {share(found)}" for method, found in row.items())
                tell(f"seed {seed}: {name}: {told}")
    rate = f"{100 * config.false_alarm_rate:g} %"
    print(f"\nScan, {channels} channels, signs that name the right class (any class on clean networks), {rate} asked\n")
    methods = config.scan
    print("| network | attack success | " + " | ".join(methods) + " |")
    print("|---|---|" + "---|" * len(methods))
    for name, row in signs.items():
        shown = percent(success[name]) if name in success else "-"
        print(f"| {name} | {shown} | " + " | ".join(share(row.get(method, [])) for method in methods) + " |")


def scan_material(dataset: Dataset, seed: int, channels: int, config: ThreatsConfig) -> tuple[CleanImages, References]:
    """The clean images that are looked at, and references trained on the rest of the test split."""
    order = np.random.default_rng(seed).permutation(len(dataset.test))
    looked, rest = order[: config.samples], order[config.samples :]
    test = dataset.test
    clean = CleanImages(
        images=torch.from_numpy(test.batch(looked)),
        labels=torch.from_numpy(test.labels[looked]),
        class_names=dataset.class_names,
    )
    held = Dataset(Split(test.images[rest], test.labels[rest]), test, dataset.class_names)
    looks = []
    for number in range(config.references):
        own = 10_000 + 100 * seed + number
        trained = train_clean(fresh(own, channels), held, FitConfig(epochs=20, batch_size=32), own)
        looks.append(look_at(trained, clean, config, seed))
    return clean, References.of(looks)


def findings(
    network: nn.Module,
    before: tuple[str, nn.Module] | None,
    clean: CleanImages,
    references: References,
    train: Split | None,
    seed: int,
    config: ThreatsConfig,
) -> Iterator[Finding]:
    """The methods asked on one network."""
    rate, names = config.false_alarm_rate, clean.class_names
    look = look_at(network, clean, config, seed)
    if look.inversion is not None:
        yield judge_inversion("", look, references, names, rate)
    if look.warping is not None:
        yield judge_warping("", look, references, names, rate)
    if look.sensitivity is not None:
        yield judge_sensitivity("", look, references, names, rate)
    if before is not None and "stages" in config.scan:
        yield judge_stages("", look, network, before, clean, rate)
    if before is None and train is not None and "clustering" in config.scan:
        yield cluster("", network, train, clean.class_names, rate, seed)


if __name__ == "__main__":
    main()
