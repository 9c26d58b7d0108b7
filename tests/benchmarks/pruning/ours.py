"""Our pruning of a network of the table: the one place that calls it."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import pipeline.prune
from devices.files import digest_file, digest_value
from pipeline.model import PLAN_FILE, WEIGHTS_FILE, NetworkArtifact, load_plan
from pipeline.prune.damage import Tune
from pipeline.prune.plan import PruningPlan
from pipeline.prune.pruning import Pruning
from pipeline.prune.size import count_macs
from pipeline.prune.stage import prune_network
from pipeline.recipe import PruneConfig
from tests.benchmarks.pruning import networks
from tests.benchmarks.pruning.as_fast import AsFastAs
from tests.benchmarks.pruning.rebuild import rebuild
from tests.benchmarks.pruning.recover import Job, read_images, train
from tests.benchmarks.pruning.results import Results

_CODE = Path(pipeline.prune.__file__).parent
# As many as `prune.criterion_samples` by default.
_RANKED_ON = 512


@dataclass(frozen=True, kw_only=True)
class Request:
    """One step of pruning."""

    network: str
    start: Path
    """Folder of the network as the step before left it."""
    dense: Path
    out: Path
    settings: dict[str, Any]
    """Of `[prune]`."""
    channel_step: int
    step: int = 1
    """Of the schedule, from 1."""
    seed: int = 0
    images: Path | None = None
    """Folder of training images, for what is ranked on them."""
    latency: AsFastAs | None = None
    """Of a target in latency."""
    tuned: Job | None = None
    """How networks are trained before they are compared, where `settings` have `tune_samples`."""

    def decides(self) -> dict[str, Any]:
        """All that decides the result, the code included."""
        code = {str(path.relative_to(_CODE)): digest_file(path) for path in sorted(_CODE.rglob("*.py"))}
        files = [folder / file for folder in (self.start, self.dense) for file in (WEIGHTS_FILE, PLAN_FILE)]
        return {
            "files": [digest_file(path) for path in files if path.exists()],
            "settings": self.settings,
            "channel_step": self.channel_step,
            "step": self.step,
            "seed": self.seed,
            **({"ranked_on": [_RANKED_ON, digest_file(self.images / "train_images.npy")]} if self.images else {}),
            **({"as_fast_as": self.latency.decides()} if self.latency else {}),
            **({"tuned": asdict(replace(self.tuned, out=""))} if self.tuned else {}),
            "code": digest_value(code),
        }


def prune(request: Request) -> dict[str, Any]:
    """Prune `start` into `out`; returns the stage's metrics and its time."""
    shutil.rmtree(request.out, ignore_errors=True)
    pruning = Pruning(
        network=rebuild(request.network, request.start),
        image_NCHW=networks.fixed_images(request.network, 1),
        channel_step=request.channel_step,
        dense=rebuild(request.network, request.dense),
        plan=load_plan(NetworkArtifact(request.start)) or PruningPlan(),
        step=request.step,
        seed=request.seed,
        batches=_batches(request.images),
        loss=_loss,
        latency=request.latency,
        tune=_tune(request),
    )
    started = time.perf_counter()
    result = prune_network(PruneConfig(**request.settings), pruning, request.out)
    return {**result.metrics, "prune_s": time.perf_counter() - started}


def _batches(folder: Path | None) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """Images of a fixed shuffle with their labels."""
    if folder is None:
        return ()
    train = read_images(folder, "train", _RANKED_ON)
    parts = np.array_split(np.arange(len(train.labels)), 8)
    return tuple((train.batch(part), torch.from_numpy(train.labels[part])) for part in parts)


def _tune(request: Request) -> Tune | None:
    """One pass, as the recovery trains, over images that no network is ranked on."""
    job, samples = request.tuned, request.settings.get("tune_samples", 0)
    if job is None or not samples:
        return None
    assert request.images is not None
    images = read_images(request.images, "train", samples, after=_RANKED_ON)

    def tune(network: nn.Module) -> None:
        train(network, None, images, replace(job, epochs=1))

    return tune


def _loss(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(network(images), labels)


def once(results: Results, key: str, request: Request) -> dict[str, Any]:
    """The same, unless it was found before under equal settings."""
    found: dict[str, Any] = results.once(key, request.decides(), lambda: prune(request))
    return found


def count(name: str, folder: Path) -> int:
    """Multiply-accumulates of the network of a folder, ours or the peer's, by one counter."""
    return count_macs(rebuild(name, folder), networks.fixed_images(name, 1))
