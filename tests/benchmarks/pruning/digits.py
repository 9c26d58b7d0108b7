"""The network of the digits recipe, trained plainly, at four times fewer MACs: every image is a test image once."""

from __future__ import annotations

from pathlib import Path

from devices.files import digest_file
from pipeline.model import WEIGHTS_FILE
from tests.benchmarks.pruning import data, jobs, ours
from tests.benchmarks.pruning.plan import PEERS, Plan
from tests.benchmarks.pruning.recover import Job
from tests.benchmarks.pruning.results import Results

NAME = "digits"
TARGET_MACS = 0.25
OURS = "ours, a quarter of the MACs"
# Of recipes/digits.toml.
_BATCH_SIZE, _TRAIN_EPOCHS, _TRAIN_RATE, _TUNE_EPOCHS, _TUNE_RATE = 64, 10, 0.1, 16, 0.05


def run(plan: Plan, results: Results) -> None:
    """Train, prune and recover each fold with each seed."""
    base = plan.out / "digits"
    cases = [(fold, seed) for fold in range(plan.folds) for seed in plan.seeds]
    images = {fold: data.digits_fold(fold, plan.out / "data") for fold in range(plan.folds)}
    dense = {case: base / f"dense-{case[0]}-{case[1]}" for case in cases}
    jobs.recover_all(
        results,
        {
            f"digits/dense/{fold}/{seed}": _job(images[fold], None, dense[fold, seed], seed, _TRAIN_EPOCHS, _TRAIN_RATE)
            for fold, seed in cases
        },
        plan.workers,
    )
    tunes: dict[str, Job] = {}
    for fold, seed in cases:
        for arm, folder in _prune(plan, results, dense[fold, seed], f"{fold}/{seed}").items():
            out = folder.with_name(folder.name + "-recovered")
            tunes[f"digits/recovered/{arm}/{fold}/{seed}"] = _job(
                images[fold], folder, out, seed, _TUNE_EPOCHS, _TUNE_RATE
            )
    jobs.recover_all(results, tunes, plan.workers)


def _prune(plan: Plan, results: Results, dense: Path, case: str) -> dict[str, Path]:
    folders = {}
    for arm, tuned in PEERS.items():
        folders[arm] = dense.with_name(f"{dense.name}-{arm.replace(' ', '-')}")
        key = f"digits/pruned/{arm}/{case}"
        jobs.peer_prune(plan, results, key, NAME, dense, folders[arm], TARGET_MACS, tuned)
    folders[OURS] = dense.with_name(f"{dense.name}-ours")
    request = plan.ours(NAME, dense, folders[OURS], target_macs=TARGET_MACS)
    ours.once(results, f"digits/pruned/{OURS}/{case}", request)
    places = {"dense": dense} | folders
    settings = [digest_file(place / WEIGHTS_FILE) for place in places.values()]
    key = f"digits/macs/{case}"
    results.once(key, settings, lambda: {arm: ours.count(NAME, place) for arm, place in places.items()})
    return folders


def _job(images: Path, start: Path | None, out: Path, seed: int, epochs: int, rate: float) -> Job:
    return Job(
        network=NAME,
        pruned=str(start) if start else None,
        data=str(images),
        out=str(out),
        seed=seed,
        epochs=epochs,
        batch_size=_BATCH_SIZE,
        learning_rate=rate,
        augment=False,
    )
