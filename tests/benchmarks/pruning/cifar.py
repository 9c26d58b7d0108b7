"""ResNet-20 on CIFAR-10: at half the MACs, and at the peer's own latency."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from devices.files import digest_file
from pipeline.model import WEIGHTS_FILE
from tests.benchmarks.pruning import data, jobs, ours
from tests.benchmarks.pruning.as_fast import AsFastAs
from tests.benchmarks.pruning.measure import build_engine, side_by_side
from tests.benchmarks.pruning.plan import PEERS, Plan
from tests.benchmarks.pruning.recover import Job
from tests.benchmarks.pruning.results import Results

NAME = "resnet20"
TARGET_MACS = 0.5
HALF = "ours, half the MACs"
BLOCKS = "ours, half the MACs by whole blocks"
BATCH_SIZE, LEARNING_RATE = 128, 0.05
# Settings of `[prune]` by arm at half the MACs: channels by what the network loses, and whole blocks.
HALVES: dict[str, dict[str, Any]] = {HALF: {"scope": "sensitivity"}, BLOCKS: {"granularity": "blocks"}}
# Of the networks that are to be as fast as another: the limit is a ratio to the other's latency.
_AS_FAST: dict[str, Any] = {"granularity": "blocks_and_channels", "scope": "sensitivity", "target_latency_ms": 1.0}
Found = dict[str, Any]


def run(plan: Plan, results: Results) -> None:
    """Prune, measure and recover all arms; what is stored is not found again."""
    assert plan.data is not None
    assert plan.weights is not None
    images = data.cifar10(plan.data, plan.out / "data")
    dense = data.dense_resnet20(plan.weights, plan.out / "cifar" / "dense")
    arms = _peers(plan, results, dense) | _ours(plan, results, dense, images)
    _measure(plan, results, {"dense": dense} | arms)
    recoveries = {
        f"cifar/recovered/{arm}/{seed}": job(plan, images, folder, arm, seed)
        for seed in plan.seeds
        for arm, folder in arms.items()
    }
    for seed in plan.seeds:
        start = arms[equal(CONFIGURED)]
        recoveries[f"cifar/recovered/{DISTILLED}/{seed}"] = job(plan, images, start, DISTILLED, seed, dense)
    recoveries = {key: found for key, found in recoveries.items() if plan.recovers(key)}
    recoveries["cifar/recovered/dense/0"] = job(plan, images, dense, "dense", 0, epochs=0)
    jobs.recover_all(results, recoveries, plan.workers)


def equal(peer: str) -> str:
    """Name of our network that is as fast as this peer's."""
    return f"ours, as fast as {peer}"


CONFIGURED = "peer configured"
DISTILLED = f"{equal(CONFIGURED)}, distilled"


def job(
    plan: Plan, images: Path, start: Path, arm: str, seed: int, teacher: Path | None = None, epochs: int | None = None
) -> Job:
    """The recovery that every arm gets."""
    return Job(
        network=NAME,
        pruned=str(start),
        teacher=str(teacher) if teacher else None,
        data=str(images),
        out=str(plan.out / "cifar" / "recovered" / arm.replace(", ", " ").replace(" ", "-") / str(seed)),
        seed=seed,
        epochs=plan.epochs if epochs is None else epochs,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        augment=True,
        train_images=plan.train_images,
        test_images=plan.test_images,
    )


def _peers(plan: Plan, results: Results, dense: Path) -> dict[str, Path]:
    """The peer's two networks at half the MACs."""
    folders = {arm: plan.out / "cifar" / arm.replace(" ", "-") for arm in PEERS}
    for arm, tuned in PEERS.items():
        key = f"cifar/pruned/{arm}"
        jobs.peer_prune(plan, results, key, NAME, dense, folders[arm], TARGET_MACS, tuned)
    return folders


def _ours(plan: Plan, results: Results, dense: Path, images: Path) -> dict[str, Path]:
    """Ours at half the MACs, by channels and by blocks, and one as fast as each peer."""
    base = plan.out / "cifar"
    folders: dict[str, Path] = {}
    for arm, settings in HALVES.items():
        folders[arm] = base / arm.replace(", ", " ").replace(" ", "-")
        request = plan.ours(NAME, dense, folders[arm], images, target_macs=TARGET_MACS, **settings)
        ours.once(results, f"cifar/pruned/{arm}", request)
    for peer in PEERS:
        other, arm = base / peer.replace(" ", "-"), equal(peer)
        folders[arm] = folder = base / arm.replace(", ", " ").replace(" ", "-")
        latency = AsFastAs(
            network=NAME, other=other, scratch=folder.with_name(f"{folder.name}-probes"), duration_s=plan.probe_s
        )
        tuned = job(plan, images, dense, "tuned", 0)
        settings = _AS_FAST | ({"tune_samples": plan.tune_images} if plan.tune_images else {})
        request = plan.ours(NAME, dense, folder, images, latency, tuned if plan.tune_images else None, **settings)
        ours.once(results, f"cifar/pruned/{arm}", request)
    return folders


def _measure(plan: Plan, results: Results, folders: dict[str, Path]) -> None:
    """All FP32 engines side by side."""
    settings = {
        "networks": {arm: digest_file(folder / WEIGHTS_FILE) for arm, folder in folders.items()},
        "duration_s": plan.duration_s,
    }

    def find() -> Found:
        engines = {arm: build_engine(NAME, folder) for arm, folder in folders.items()}
        return side_by_side(engines, "dense", plan.duration_s)

    results.once("cifar/latency", settings, find)
    results.once("cifar/macs", settings, lambda: {arm: ours.count(NAME, place) for arm, place in folders.items()})
