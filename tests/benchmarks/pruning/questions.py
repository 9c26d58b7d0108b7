"""Which scope, and which schedule, is better on CIFAR-10 at the same MACs: trained on a subset, compared in pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.prune.schedule import epochs_of
from tests.benchmarks.pruning import data, jobs, ours
from tests.benchmarks.pruning.cifar import BATCH_SIZE, LEARNING_RATE, NAME, TARGET_MACS
from tests.benchmarks.pruning.plan import Plan
from tests.benchmarks.pruning.recover import Job
from tests.benchmarks.pruning.results import Results

_STEPS = 4
# Single channels, so that all arms come to the same multiply-accumulates; nothing is timed.
_CHANNEL_STEP = 1
# Settings of `[prune]` by arm: scopes at one shot, random as the control, and schedules at the global scope.
ARMS: dict[str, dict[str, Any]] = {
    "global, one shot": {"scope": "global"},
    "local, one shot": {"scope": "local"},
    "random, one shot": {"scope": "local", "criterion": "random"},
    "global, linear": {"scope": "global", "schedule": "linear", "steps": _STEPS},
    "global, polynomial": {"scope": "global", "schedule": "polynomial", "steps": _STEPS},
}


def run(plan: Plan, results: Results) -> None:
    """Prune step by step, each followed by its part of the epochs; the last step's network is compared."""
    assert plan.data is not None
    assert plan.weights is not None
    images = data.cifar10(plan.data, plan.out / "data")
    dense = data.dense_resnet20(plan.weights, plan.out / "questions" / "dense")
    at = {(arm, seed): dense for arm in ARMS for seed in plan.seeds}
    for step in range(1, _STEPS + 1):
        tunes: dict[str, Job] = {}
        for (arm, seed), start in at.items():
            steps = ARMS[arm].get("steps", 1)
            if step > steps:
                continue
            folder = plan.out / "questions" / arm.replace(", ", " ").replace(" ", "-") / str(seed) / str(step)
            request = ours.Request(
                network=NAME,
                start=start,
                dense=dense,
                out=folder,
                settings=ARMS[arm] | {"target_macs": TARGET_MACS},
                channel_step=_CHANNEL_STEP,
                step=step,
                seed=seed,
            )
            ours.once(results, f"questions/pruned/{arm}/{seed}/{step}", request)
            epochs = epochs_of(plan.question_epochs, steps)[step - 1]
            at[arm, seed] = folder.with_name(f"{step}-recovered")
            key = f"questions/recovered/{arm}/{seed}/{step}"
            tunes[key] = _job(plan, images, folder, at[arm, seed], seed, epochs)
        jobs.recover_all(results, tunes, plan.workers)


def _job(plan: Plan, images: Path, start: Path, out: Path, seed: int, epochs: int) -> Job:
    return Job(
        network=NAME,
        pruned=str(start),
        data=str(images),
        out=str(out),
        seed=seed,
        epochs=epochs,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        augment=True,
        train_images=plan.question_images,
        test_images=plan.test_images,
    )
