"""Our attacks against torchattacks and the Adversarial Robustness Toolbox: `make bench-attacks`.

Both attack the same network, the same images, at the same budget, in turns of one batch in one process. Printed is what
is still right under ours and under theirs, the paired difference, the samples that only one of them broke, the CPU
time of each (wall time on one free core), and the median batch's ratio with batches resampled. Runs in the peers'
environment.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from devices.clipping import Norm, clip_to_ball
from devices.stage import no_progress
from devices.statistics import bootstrap_ratio, paired_difference
from pipeline.attacks.ensemble import AUTOATTACK, Budget, budget_named, expanded
from pipeline.attacks.judge import judge
from pipeline.attacks.norms import Ball
from pipeline.compute import deterministic
from pipeline.data import seeded_choice
from pipeline.model import NormalizedNetwork, load_checkpoint
from pipeline.recipe import FitConfig, ObjectiveConfig
from pipeline.recovery.fit import fit

Peer = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
EPSILONS: dict[tuple[str, Norm], float] = {
    ("digits", "linf"): 0.1,
    ("digits", "l2"): 0.7,
    ("cifar", "linf"): 8 / 255,
    ("cifar", "l2"): 0.5,
}
CIFAR_MEAN, CIFAR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


HEADER = (
    f"{'attack':<11}{'peer':<14}{'ours':>7}{'theirs':>8}  difference, points    only ours / theirs broke    "
    "CPU s    ratio by batch"
)


@dataclass(frozen=True)
class Field:
    """What both sides may do, and how many images stand in a batch."""

    ball: Ball
    budget: Budget
    batch: int


def digits_network(fold: int, samples: int) -> tuple[nn.Module, NDArray[np.float32], NDArray[np.int64]]:
    """A small network trained by PGD adversarial training, and test images that it never saw."""
    from pipeline.datasets.digits import digits
    from pipeline.zoo import residual_cnn

    dataset = digits(fold=fold)
    torch.manual_seed(fold)
    network = residual_cnn(channels=16, blocks=1)
    fit(network, dataset.train, ObjectiveConfig(kind="adversarial"), FitConfig(epochs=10), fold, 1, no_progress)
    chosen = seeded_choice(len(dataset.test), samples, 0)
    return network.eval(), dataset.test.batch(chosen), dataset.test.labels[chosen]


def cifar_network(data: str, weights: Path, samples: int) -> tuple[nn.Module, NDArray[np.float32], NDArray[np.int64]]:
    """ResNet-20 with the weights given, and images of the archive's test split."""
    from pipeline.datasets.image_folder import image_folder
    from pipeline.zoo import cifar_resnet

    dataset = image_folder(data, train_per_class=1)
    network = cifar_resnet(depth=20, classes=10)
    load_checkpoint(network, weights)
    chosen = seeded_choice(len(dataset.test), samples, 0)
    whole = NormalizedNetwork(network, CIFAR_MEAN, CIFAR_STD).eval()
    # Decoded images are views of (N, H, W, C), and the peer's FAB takes no gradients of that layout.
    return whole, np.ascontiguousarray(dataset.test.batch(chosen)), dataset.test.labels[chosen]


def torchattacks_peers(network: nn.Module, ball: Ball, budget: Budget, classes: int) -> dict[str, Peer]:
    """torchattacks at our budget; its defaults are 10 steps for the attacks by gradients."""
    import torchattacks

    shared: dict[str, Any] = {"eps": ball.epsilon, "norm": "Linf" if ball.norm == "linf" else "L2", "seed": 0}
    targeted = {"n_classes": min(classes, budget.targets + 1)}
    peers: dict[str, Any] = {
        "apgd_ce": torchattacks.APGD(network, steps=budget.apgd_steps, loss="ce", **shared),
        "apgd_dlr": torchattacks.APGDT(network, steps=budget.apgd_steps, **targeted, **shared),
        "fab": torchattacks.FAB(network, steps=budget.fab_steps, multi_targeted=True, **targeted, **shared),
        "square": torchattacks.Square(network, n_queries=budget.square_queries, **shared),
    }
    if ball.norm == "linf":
        pgd = {"eps": ball.epsilon, "alpha": budget.pgd_step_size, "steps": budget.pgd_steps}
        peers = {"fgsm": torchattacks.FGSM(network, eps=ball.epsilon), "pgd": torchattacks.PGD(network, **pgd)} | peers
    whole = torchattacks.MultiAttack([peers[name] for name in AUTOATTACK])
    return peers | {"autoattack": whole}


def art_peers(network: nn.Module, ball: Ball, budget: Budget, classes: int, shape: tuple[int, ...]) -> dict[str, Peer]:
    """PGD and Square of the Adversarial Robustness Toolbox."""
    from art.attacks.evasion import ProjectedGradientDescentPyTorch, SquareAttack
    from art.estimators.classification import PyTorchClassifier

    wrapped = PyTorchClassifier(network, nn.CrossEntropyLoss(), shape, classes, clip_values=(0, 1))
    norm = np.inf if ball.norm == "linf" else 2
    pgd = ProjectedGradientDescentPyTorch(
        wrapped, norm, ball.epsilon, budget.pgd_step_size, max_iter=budget.pgd_steps, num_random_init=1, verbose=False
    )
    squares = SquareAttack(wrapped, norm, max_iter=budget.square_queries, eps=ball.epsilon, p_init=0.8, verbose=False)

    def as_peer(attack: Any) -> Peer:
        return lambda images, labels: torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))

    return {"pgd": as_peer(pgd), "square": as_peer(squares)}


@dataclass(frozen=True)
class Row:
    """What both left right, (N,), and the CPU seconds of ours and theirs by batch, (batches, 2)."""

    ours: NDArray[np.bool_]
    theirs: NDArray[np.bool_]
    seconds: NDArray[np.float64]

    def line(self) -> str:
        """In percent and points, with intervals."""
        found = paired_difference(self.theirs, self.ours)
        apart = (np.flatnonzero(self.theirs & ~self.ours).tolist(), np.flatnonzero(self.ours & ~self.theirs).tolist())
        ours, theirs = self.seconds.sum(axis=0)
        times_ns = np.round(1e9 * self.seconds).astype(np.int64)
        ratio = bootstrap_ratio(times_ns[:, :1], times_ns[:, 1:], resamples=2000, seed=0)
        return (
            f"{100 * self.ours.mean():6.2f}%{100 * self.theirs.mean():7.2f}%"
            f"  {100 * found.value:5.2f} ({100 * found.low:.2f} to {100 * found.high:.2f})"
            f"  {apart[0]} / {apart[1]}  {ours:.1f} / {theirs:.1f}"
            f"  {ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
        )


def attacked(
    name: str, peer: Peer, network: nn.Module, images: NDArray[np.float32], labels: NDArray[np.int64], field: Field
) -> Row:
    """One batch by ours and by the peer, then the next; what the peer gives is clipped again. Progress on stderr."""
    names = expanded((name,))
    ours, theirs, seconds = [], [], []
    for start in range(0, len(labels), field.batch):
        clean, truth = images[start : start + field.batch], labels[start : start + field.batch]
        times = [time.process_time()]
        ours.append(judge(network, clean, truth, names, field.ball, field.budget, start, field.batch).survived)
        times.append(time.process_time())
        found = peer(torch.from_numpy(clean).clone(), torch.from_numpy(truth).clone()).detach().numpy()
        times.append(time.process_time())
        clipped = clip_to_ball(found, clean, field.ball.epsilon, field.ball.norm)
        with torch.no_grad():
            right = [network(torch.from_numpy(part)).argmax(1).numpy() == truth for part in (clean, clipped)]
        theirs.append(right[0] & right[1])
        seconds.append(np.diff(times))
        row = Row(np.concatenate(ours), np.concatenate(theirs), np.array(seconds))
        print(f"  {name}, {len(row.ours)} of {len(labels)}: {row.line()}", file=sys.stderr, flush=True)
    return row


def compare(
    title: str,
    network: nn.Module,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    field: Field,
    options: argparse.Namespace,
) -> dict[tuple[str, str], Row]:
    """One line for each attack and peer; the rows by their names."""
    classes = int(network(torch.from_numpy(images[:1])).shape[1])
    print(
        f"{title}: n = {len(labels)}, {field.ball.norm}, epsilon = {field.ball.epsilon:.4g}, "
        f"{describe(field.budget, classes)}"
    )
    print(HEADER)
    sources = {"torchattacks": torchattacks_peers(network, field.ball, field.budget, classes)}
    if options.art:
        sources["ART"] = art_peers(network, field.ball, field.budget, classes, images.shape[1:])
    rows = {}
    for name in options.attacks:
        for source, peers in sources.items():
            if name in peers:
                rows[name, source] = attacked(name, peers[name], network, images, labels, field)
                print(f"{name:<11}{source:<14}{rows[name, source].line()}", flush=True)
    return rows


def pooled(folds: Sequence[dict[tuple[str, str], Row]]) -> None:
    """All folds as one; samples are numbered through."""
    print(f"digits, {len(folds)} folds pooled: n = {len(next(iter(folds[0].values())).ours) * len(folds)}")
    print(HEADER)
    for name, source in folds[0]:
        parts = [fold[name, source] for fold in folds]
        joined = [np.concatenate([getattr(part, what) for part in parts]) for what in ("ours", "theirs", "seconds")]
        print(f"{name:<11}{source:<14}{Row(*joined).line()}", flush=True)


def describe(budget: Budget, classes: int) -> str:
    """The budget in words."""
    targets = min(budget.targets, classes - 1)
    return (
        f"{budget.apgd_steps} steps, {targets} targets, {budget.square_queries} queries; PGD {budget.pgd_steps} steps"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    known = ("fgsm", "pgd", *AUTOATTACK, "autoattack")
    parser.add_argument("--attacks", nargs="+", default=known, choices=known)
    parser.add_argument("--norm", choices=("linf", "l2"), default="linf")
    parser.add_argument("--budget", choices=("standard", "fast"), default="standard")
    parser.add_argument("--queries", type=int, help="of Square, instead of the budget's")
    parser.add_argument("--steps", type=int, help="of APGD and FAB, instead of the budget's")
    parser.add_argument("--folds", type=int, nargs="*", default=[0, 1], help="of the digits; none: no digits")
    parser.add_argument("--samples", type=int, default=500, help="test images of each network")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--art", action="store_true", help="also against ART, which is slow")
    parser.add_argument("--data", help="CIFAR-10 as a tar archive or folder of class folders")
    parser.add_argument("--weights", type=Path, help="ResNet-20, safetensors")
    parser.add_argument("--epsilon", type=float, help="of CIFAR-10, instead of 8/255 in Linf and 0.5 in L2")
    options = parser.parse_args(arguments)
    asked = {"square_queries": options.queries, "apgd_steps": options.steps, "fab_steps": options.steps}
    budget = replace(budget_named(options.budget), **{key: value for key, value in asked.items() if value})
    budget = replace(budget, pgd_restarts=1)
    with deterministic(0, options.threads, exact=False):
        folds = []
        for fold in options.folds:
            ball = Ball(epsilon=EPSILONS["digits", options.norm], norm=options.norm)
            field = Field(ball, replace(budget, pgd_step_size=ball.epsilon / 10), options.batch)
            folds.append(compare(f"digits, fold {fold}", *digits_network(fold, options.samples), field, options))
        if len(folds) > 1:
            pooled(folds)
        if options.data and options.weights:
            ball = Ball(epsilon=options.epsilon or EPSILONS["cifar", options.norm], norm=options.norm)
            field = Field(ball, replace(budget, pgd_step_size=ball.epsilon / 10), options.batch)
            compare("cifar", *cifar_network(options.data, options.weights, options.samples), field, options)


if __name__ == "__main__":
    main()
