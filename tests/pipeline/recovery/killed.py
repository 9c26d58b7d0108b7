"""A recovery with everything on, for a process that kills itself in its midst: `python -m ...killed FOLDER STEP`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from devices.stage import no_progress
from pipeline.recipe import DistillConfig
from pipeline.recovery.report import FitReport
from tests.pipeline.recovery.examples import ADVERSARIAL, few, noisy, train


def everything(folder: Path | None, kill_at: int | None = None) -> tuple[nn.Module, FitReport]:
    """Five epochs of four steps: dropout, adversary, teacher of another width, average, masks, patience."""
    network = noisy()
    with torch.no_grad():
        network.get_parameter("5.weight")[:, ::3] = 0

    def kill(done: int, total: int, text: str) -> None:
        if done == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    report = train(
        network,
        ADVERSARIAL,
        few(160),
        epochs=5,
        batch_size=32,
        augment="crop_flip",
        schedule="cosine",
        ema_decay=0.7,
        patience=5,
        validation_share=0.2,
        teacher=noisy(width=20),
        distill=DistillConfig(features=("1",)),
        masked=("5.weight",),
        checkpoints=folder,
        progress=no_progress if kill_at is None else kill,
    )
    return network, report


if __name__ == "__main__":
    torch.set_num_threads(1)
    everything(Path(sys.argv[1]), int(sys.argv[2]))
