"""Square against torchattacks' own on the same network and images: what each leaves, and its own share of the time.

`make bench-square DATA=... WEIGHTS=...` installs torchattacks, without what it depends on, beside the other peers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from devices.clipping import clip_to_ball
from devices.queries.square import SquareConfig, square
from devices.statistics import Interval, paired_difference, wilson
from pipeline.data import seeded_choice
from pipeline.datasets.image_folder import image_folder
from pipeline.zoo import cifar_resnet

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Images = NDArray[np.float32]


class Timed(nn.Module):
    """The network with its normalization; counts images, and the time that is its own."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, weights: str) -> None:
        super().__init__()
        self.network = cifar_resnet(depth=20)
        self.network.load_state_dict(load_file(weights))
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(STD)[:, None, None])
        self.seconds, self.asked = 0.0, 0
        self.eval().requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, 10)."""
        started = time.process_time()
        with torch.no_grad():
            logits: torch.Tensor = self.network((x - self.mean) / self.std)
        self.seconds += time.process_time() - started
        self.asked += len(x)
        return logits

    def answer(self, images_NCHW: Images) -> Images:
        """The same in numpy."""
        logits: Images = self(torch.from_numpy(images_NCHW)).numpy()
        return logits


def measured(
    network: Timed, images: Images, labels: NDArray[np.int64], attack: Callable[[], Images], epsilon: float, norm: Any
) -> dict[str, Any]:
    """Run an attack and judge what it found."""
    network.seconds, network.asked = 0.0, 0
    started = time.process_time()
    found = attack()
    seconds = time.process_time() - started
    result = {"seconds": seconds, "own": 1 - network.seconds / seconds, "asked": network.asked}
    kept = clip_to_ball(np.asarray(found, dtype=np.float32), images, epsilon, norm)
    return result | {"right": network.answer(kept).argmax(axis=1) == labels}


def points(interval: Interval) -> str:
    """In percent or points, with the interval."""
    return f"{100 * interval.value:.2f} ({100 * interval.low:.2f} to {100 * interval.high:.2f})"


def main() -> None:
    """Attack with both and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--epsilon", type=float, default=None, help="default: 8/255, or 0.5 in L2")
    parser.add_argument("--norm", choices=("linf", "l2"), default="linf")
    options = parser.parse_args()
    import torchattacks

    torch.set_num_threads(1)
    epsilon = options.epsilon or (8 / 255 if options.norm == "linf" else 0.5)
    test = image_folder(options.data).test
    chosen = seeded_choice(len(test), options.samples, seed=0)
    # The peer's L2 form takes no other layout.
    images = np.ascontiguousarray(test.batch(chosen), dtype=np.float32)
    labels = np.asarray(test.labels[chosen], dtype=np.int64)
    network = Timed(options.weights)
    config = SquareConfig(epsilon=epsilon, queries=options.queries, norm=options.norm)
    name = {"linf": "Linf", "l2": "L2"}[options.norm]
    peer = torchattacks.Square(network, norm=name, eps=epsilon, n_queries=options.queries, n_restarts=1, seed=0)
    attacks: dict[str, Callable[[], Images]] = {
        "espalier": lambda: square(network.answer, images, labels, config).images_NCHW,
        "torchattacks": lambda: peer(torch.from_numpy(images), torch.from_numpy(labels)).numpy(),
    }
    rows = {attack: measured(network, images, labels, call, epsilon, options.norm) for attack, call in attacks.items()}
    print(f"{options.norm}, epsilon = {epsilon:.4g}, {options.queries} queries, n = {len(labels)}")
    for attack, row in rows.items():
        right = points(wilson(int(row["right"].sum()), len(labels)))
        print(
            f"{attack:13} right {right} %, {row['asked']} queries, {row['seconds']:.1f} s of one core, "
            f"{100 * row['own']:.1f} % of them the attack's own"
        )
    difference = paired_difference(rows["torchattacks"]["right"], rows["espalier"]["right"])
    print(f"espalier less torchattacks, points: {points(difference)}")


if __name__ == "__main__":
    main()
