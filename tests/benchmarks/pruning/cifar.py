"""ResNet-20 on CIFAR-10: at half the MACs, and at the peer's own latency."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from devices.errors import RecipeError
from devices.files import digest_file
from pipeline.model import WEIGHTS_FILE
from tests.benchmarks.pruning import data, jobs, ours, searched
from tests.benchmarks.pruning.measure import build_engine, side_by_side
from tests.benchmarks.pruning.ours import Request
from tests.benchmarks.pruning.plan import PEERS, Plan
from tests.benchmarks.pruning.recover import Job
from tests.benchmarks.pruning.results import Results

NAME = "resnet20"
TARGET_MACS = 0.5
HALF = "ours, half the MACs"
BLOCKS = "ours, half the MACs by whole blocks"
# Largest ratio of medians that counts as fast enough.
_WITHIN = 1.0
_LEAST_SHARE = 0.15
BATCH_SIZE, LEARNING_RATE = 128, 0.05
# Settings of `[prune]` of the networks that are to be as fast as another.
_BY_CHANNELS: dict[str, Any] = {"scope": "allocated"}
_BY_BLOCKS: dict[str, Any] = {"granularity": "blocks"}
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
        start = arms[by_blocks(CONFIGURED)]
        recoveries[f"cifar/recovered/{DISTILLED}/{seed}"] = job(plan, images, start, DISTILLED, seed, dense)
    recoveries = {key: found for key, found in recoveries.items() if plan.recovers(key)}
    recoveries["cifar/recovered/dense/0"] = job(plan, images, dense, "dense", 0, epochs=0)
    jobs.recover_all(results, recoveries, plan.workers)


def equal(peer: str) -> str:
    """Name of our network that is as fast as this peer's."""
    return f"ours, as fast as {peer}"


def by_blocks(peer: str) -> str:
    """The same, without whole blocks instead of channels."""
    return f"{equal(peer)}, by whole blocks"


CONFIGURED = "peer configured"
SEARCHED = f"{equal(CONFIGURED)}, searched"
DISTILLED = f"{by_blocks(CONFIGURED)}, distilled"


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
    folders = {HALF: base / "ours-half", BLOCKS: base / "ours-blocks"}
    ours.once(results, f"cifar/pruned/{HALF}", plan.ours(NAME, dense, folders[HALF], target_macs=TARGET_MACS))
    blocks = plan.ours(NAME, dense, folders[BLOCKS], images, target_macs=TARGET_MACS, granularity="blocks")
    ours.once(results, f"cifar/pruned/{BLOCKS}", blocks)
    for peer in PEERS:
        other = base / peer.replace(" ", "-")
        for arm, settings, seen in ((equal(peer), _BY_CHANNELS, None), (by_blocks(peer), _BY_BLOCKS, images)):
            folders[arm] = folder = base / arm.replace(", ", " ").replace(" ", "-")
            request = plan.ours(NAME, dense, folder, seen, **settings)
            decides = request.decides() | {
                "as_fast_as": digest_file(other / WEIGHTS_FILE),
                "search": [plan.bisections, plan.search_duration_s],
            }

            def find(request: Request = request, other: Path = other) -> Found:
                return as_fast_as(plan, request, other)

            results.once(f"cifar/pruned/{arm}", decides, find)
    folders[SEARCHED] = _searched(plan, results, dense, images, base / CONFIGURED.replace(" ", "-"))
    return folders


def _searched(plan: Plan, results: Results, dense: Path, images: Path, other: Path) -> Path:
    """Ours by search, as fast as that peer's network."""
    folder = other.with_name(f"ours-searched-as-fast-as-{other.name}")
    settings = plan.ours(NAME, dense, folder).decides() | {
        "as_fast_as": digest_file(other / WEIGHTS_FILE),
        "search": searched.settings(plan),
    }
    results.once(f"cifar/pruned/{SEARCHED}", settings, lambda: searched.as_fast_as(plan, dense, other, images, folder))
    return folder


def as_fast_as(plan: Plan, request: Request, other: Path) -> Found:
    """Prune as asked to the largest share of MACs whose median latency is at most the other's.

    Found by bisection on FP32 engines, before any training. Returns the stage's metrics. Raises `SystemExit` when every
    share that was tried is slower.
    """
    reference = build_engine(NAME, other)
    search = request.out.with_name(f"{request.out.name}-search")
    tried: dict[float, float] = {}

    def at(share: float, out: Path) -> Request:
        return replace(request, out=out, settings=request.settings | {"target_macs": share})

    def ratio(share: float) -> float | None:
        """Our latency over the other's at this share of MACs; None where the share is out of reach."""
        place = search / f"{share:.4f}"
        try:
            ours.prune(at(share, place))
        except RecipeError:
            return None
        engines = {"other": reference, "ours": build_engine(NAME, place)}
        tried[share] = 1 / side_by_side(engines, "other", plan.search_duration_s)["ours"]["gain"]["value"]
        return tried[share]

    best = _largest_within(ratio, plan.bisections)
    shutil.rmtree(search, ignore_errors=True)
    if best is None:
        raise SystemExit(f"ours is slower than {other.name} at every share of the MACs that was tried: {tried}")
    return ours.prune(at(best, request.out)) | {"share": best, "tried": tried}


def _largest_within(ratio: Callable[[float], float | None], bisections: int) -> float | None:
    low, high, best = _LEAST_SHARE, 1.0, None
    for _ in range(bisections):
        middle = (low + high) / 2
        found = ratio(middle)
        if found is None or found <= _WITHIN:
            # Out of reach means too small, as fast enough does.
            low = middle
            best = middle if found is not None else best
        else:
            high = middle
    return best


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
