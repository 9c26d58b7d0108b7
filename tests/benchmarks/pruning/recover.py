"""Recovery of one pruned network, the same for every arm: `python -m tests.benchmarks.pruning.recover job.json`.

A plain loop of its own, so that no arm profits from a trainer that the other lacks: SGD, one-cycle rate, crops and
mirrors, BatchNorm statistics anew before and after. Images come in an order that depends on the seed alone.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from tests.benchmarks.pruning import networks
from tests.benchmarks.pruning.rebuild import rebuild

_EVALUATED_AT_ONCE = 250
_KD_WEIGHT, _KD_TEMPERATURE = 0.9, 4.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one recovery is, whole: equal jobs give equal weights on one kind of CPU."""

    network: str
    pruned: str | None
    """Folder of the network to start from; None for initial weights by the seed."""
    teacher: str | None = None
    """Folder of the network whose answers are followed too (Hinton et al. 2015)."""
    data: str
    """Folder of `train_images.npy`, `train_labels.npy`, `test_images.npy`, `test_labels.npy`."""
    out: str
    seed: int
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 5e-4
    augment: bool
    train_images: int | None = None
    """The first of a fixed shuffle; None for all."""
    test_images: int | None = None
    recalibration_images: int = 2000


@dataclass(frozen=True)
class Images:
    """uint8 or float32 (N, C, H, W) with labels (N,)."""

    images: NDArray[np.uint8] | NDArray[np.float32]
    labels: NDArray[np.int64]

    def batch(self, chosen: NDArray[np.int64]) -> torch.Tensor:
        """As float32, 0 to 1, channels last: a fifth faster here."""
        batch = torch.from_numpy(self.images[chosen])
        batch = batch.float() / 255 if batch.dtype == torch.uint8 else batch
        return batch.contiguous(memory_format=torch.channels_last)


def read_images(folder: Path, part: str, limit: int | None, after: int = 0) -> Images:
    """All images of `train` or `test`, or so many of a fixed shuffle, those that come first or `after` so many."""
    images = np.load(folder / f"{part}_images.npy", mmap_mode="r")
    labels = np.load(folder / f"{part}_labels.npy")
    if limit is None or limit >= len(labels):
        return Images(images, labels)
    chosen = np.sort(np.random.default_rng(0).permutation(len(labels))[after : after + limit])
    return Images(images[chosen], labels[chosen])


def recalibrate(network: nn.Module, train: Images, count: int) -> None:
    """Statistics of BatchNorm anew: the mean over so many training images, none of them augmented."""
    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momentum = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    chosen = np.random.default_rng(1).permutation(len(train.labels))[:count]
    network.train()
    with torch.no_grad():
        # Equal batches, because a cumulative mean counts each batch alike.
        for part in np.array_split(chosen, max(1, len(chosen) // _EVALUATED_AT_ONCE)):
            network(train.batch(part))
    network.eval()
    for layer, own in zip(layers, momentum, strict=True):
        layer.momentum = own


def right(network: nn.Module, test: Images) -> str:
    """Which test images are answered rightly, packed bits in hex."""
    answers = []
    network.eval()
    with torch.inference_mode():
        for start in range(0, len(test.labels), _EVALUATED_AT_ONCE):
            stop = min(start + _EVALUATED_AT_ONCE, len(test.labels))
            answers.append(network(test.batch(np.arange(start, stop))).argmax(dim=1).numpy())
    return np.packbits(np.concatenate(answers) == test.labels).tobytes().hex()


def train(network: nn.Module, teacher: nn.Module | None, images: Images, job: Job) -> None:
    """Train in place. Raises `FloatingPointError` when the loss is no longer finite."""
    count = len(images.labels)
    steps = max(1, count // job.batch_size)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=job.learning_rate, momentum=0.9, weight_decay=job.weight_decay, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, job.learning_rate, total_steps=max(6, job.epochs * steps), pct_start=0.2
    )
    generator = torch.Generator().manual_seed(job.seed)
    network.train()
    for _ in range(job.epochs):
        order = torch.randperm(count, generator=generator).numpy()
        for chosen in np.array_split(order, steps):
            batch, labels = images.batch(chosen), torch.from_numpy(images.labels[chosen])
            if job.augment:
                batch = _crop_flip(batch, generator)
            optimizer.zero_grad(set_to_none=True)
            loss = _loss(network, teacher, batch, labels)
            if not bool(torch.isfinite(loss)):
                raise FloatingPointError(f"{job.out}: the loss is not finite; lower the rate")
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    network.eval()


def _loss(network: nn.Module, teacher: nn.Module | None, batch: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logits = network(batch)
    plain = functional.cross_entropy(logits, labels)
    if teacher is None:
        return plain
    with torch.no_grad():
        wanted = functional.log_softmax(teacher(batch) / _KD_TEMPERATURE, dim=1)
    found = functional.log_softmax(logits / _KD_TEMPERATURE, dim=1)
    soft = functional.kl_div(found, wanted, reduction="batchmean", log_target=True) * _KD_TEMPERATURE**2
    return _KD_WEIGHT * soft + (1 - _KD_WEIGHT) * plain


def _crop_flip(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift by up to an eighth of the side, zeros coming in, and mirror half."""
    count, _, height, width = batch.shape
    down, across = height // 8, width // 8
    padded = functional.pad(batch, (across, across, down, down)).permute(0, 2, 3, 1)
    tops = torch.randint(0, 2 * down + 1, (count, 1, 1), generator=generator)
    lefts = torch.randint(0, 2 * across + 1, (count, 1, 1), generator=generator)
    mirrored = torch.rand((count, 1, 1), generator=generator) < 0.5
    rows = tops + torch.arange(height).view(1, -1, 1)
    columns = torch.arange(width).view(1, 1, -1)
    columns = lefts + torch.where(mirrored, width - 1 - columns, columns)
    return padded[torch.arange(count).view(-1, 1, 1), rows, columns].permute(0, 3, 1, 2)


def run(job: Job) -> dict[str, object]:
    """Evaluate, recalibrate, train, recalibrate, evaluate; write weights and plan to `out`."""
    torch.set_num_threads(1)
    started = time.process_time()
    images = read_images(Path(job.data), "train", job.train_images)
    test = read_images(Path(job.data), "test", job.test_images)
    start = Path(job.pruned) if job.pruned else None
    network = rebuild(job.network, start) if start else networks.build(job.network, job.seed)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    teacher = rebuild(job.network, Path(job.teacher)) if job.teacher else None
    if teacher is not None:
        teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found = {"pruned": right(network, test)}
    recalibrate(network, images, job.recalibration_images)
    found["recalibrated"] = right(network, test)
    if job.epochs:
        train(network, teacher, images, job)
        recalibrate(network, images, job.recalibration_images)
    found["recovered"] = right(network, test)
    out = Path(job.out)
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, out / "weights.safetensors")
    if start and (start / "plan.json").exists():
        (out / "plan.json").write_bytes((start / "plan.json").read_bytes())
    return found | {"test_images": len(test.labels), "cpu_s": time.process_time() - started}


def main() -> None:
    """Read the job, write what was found."""
    job = Job(**json.loads(Path(sys.argv[1]).read_text()))
    found = run(job)
    Path(job.out, "recovered.json").write_text(json.dumps(found | {"job": asdict(job)}))


if __name__ == "__main__":
    main()
