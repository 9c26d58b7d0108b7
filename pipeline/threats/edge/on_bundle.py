"""Threats of small devices on a bundle: its engine, its graph, and the clean images of its evidence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError
from torch import nn

from devices.bundle import MANIFEST, Bundle, open_bundle
from devices.classifier import ONNX_PATH, load_verified
from devices.detect import Host
from devices.errors import BundleError, DataError, ModelError
from devices.files import write_atomic
from devices.queries.base import Run
from devices.robustness import INDEX_FILE, EvaluationSets, read_sets, require_fit
from devices.steadiness import STEADY, share_alike, unsteady_words
from devices.trust.store import Trust
from pipeline.compute import deterministic
from pipeline.data import Split
from pipeline.recipe.edge import EdgeBudget
from pipeline.threats.edge.bit_errors import BitErrorConfig, bit_errors
from pipeline.threats.edge.physical import PhysicalConfig, patch, universal
from pipeline.threats.edge.record import Threat
from pipeline.threats.edge.subject import Images, Subject
from pipeline.twin.build import build_twin

BundleThreat = Literal["patch", "universal", "bit_errors"]
_LEAST = 40
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class BundleAttack:
    """What is tried on a bundle."""

    threats: tuple[BundleThreat, ...]
    samples: int = 300
    """Clean images of the evidence: half of them make patches, the others judge."""
    seed: int = 0
    threads: int = 1


def attack_graph(
    deploy: Path, evidence: Path, trust: Trust, config: BundleAttack, host: Host, scratch: Path
) -> list[Threat]:
    """Try threats on a bundle at the budget of its run; `scratch` is a folder for its verified graph.

    Raises `BundleError`, `DataError`, `DeviceError`, and `ModelError` for an operator without gradients, and for an
    engine that answers at random, but where its graph alone is judged.
    """
    bundle = open_bundle(deploy, "deploy", trust)
    proven = open_bundle(evidence, "evidence", trust)
    sets, budget = sets_of(proven), budget_of(proven)
    engine = load_verified(bundle, host).engine
    require_fit(sets, engine.info)
    path = scratch / "model.onnx"
    write_atomic(path, bundle.read(ONNX_PATH))
    name = str(bundle.manifest.get("engine"))
    # Bit errors alone ask neither the engine nor for gradients, and not every graph has a twin.
    by_answers = any(threat != "bit_errors" for threat in config.threats)
    if by_answers:
        _require_steady(name, engine.run, sets)
    try:
        network = build_twin(path) if by_answers else nn.Identity()
        subject, images = Subject(name, engine.run, network, path), halves(sets, config.samples, config.seed)
        with deterministic(config.seed, config.threads):
            return [_try(threat, subject, images, budget, config) for threat in config.threats]
    except ModelError as cause:
        # The copy is gone when somebody reads this.
        raise ModelError(cause.where.replace(str(path), str(deploy / ONNX_PATH)), cause.what, cause.fix) from cause


def _require_steady(name: str, run: Run, sets: EvaluationSets) -> None:
    alike = share_alike(run, sets.images["clean"], sets.scoring.kind, _BATCH)
    if alike < STEADY:
        raise ModelError(f"engine {name}", unsteady_words(alike), "Try bit_errors, which are of its graph")


def sets_of(evidence: Bundle) -> EvaluationSets:
    """The evaluation sets of verified evidence. Raises `BundleError`, and `DataError` when they are of no classes."""
    index = f"sets/{INDEX_FILE}"
    where = str(evidence.folder / index)
    sets = read_sets(evidence.read_json(index), lambda name: evidence.read(f"sets/{name}"), where)
    if sets.scoring.kind != "classification":
        raise DataError("evaluation sets", f"are of {sets.scoring.kind}, and these threats judge classes", "Leave it")
    return sets


def budget_of(evidence: Bundle) -> EdgeBudget:
    """What the run's recipe says of an attacker; the default where it says nothing. Raises `BundleError`."""
    recipe: Any = evidence.manifest.get("recipe")
    threats = recipe.get("threats") if isinstance(recipe, dict) else None
    told = threats.get("edge_budget") if isinstance(threats, dict) else None
    if told is None:
        return EdgeBudget()
    try:
        # Through JSON, so that a list is a tuple and a text no number.
        return EdgeBudget.model_validate_json(json.dumps(told), strict=True)
    except ValidationError as cause:
        key = ".".join(str(part) for part in cause.errors()[0]["loc"])
        where = f"{evidence.folder / MANIFEST}: recipe.threats.edge_budget.{key}".rstrip(".")
        raise BundleError(where, "is not what a recipe can say", "Run the recipe again with this version") from cause


def halves(sets: EvaluationSets, samples: int, seed: int) -> Images:
    """Clean images, those that attacks are made on and those that judge them. Raises `DataError` when there are few."""
    count = min(samples, len(sets.labels))
    if count < _LEAST:
        what = f"{count} clean images are asked for or there"
        raise DataError("evaluation sets", what, f"Give {_LEAST} at least: half make patches, half judge them")
    order = np.random.default_rng(seed).permutation(len(sets.labels))[:count]
    clean, labels = sets.images["clean"], sets.labels
    made, judged = order[: count // 2], order[count // 2 :]
    return Images(train=Split(clean[made], labels[made]), test=Split(clean[judged], labels[judged]))


def _try(name: BundleThreat, subject: Subject, images: Images, budget: EdgeBudget, config: BundleAttack) -> Threat:
    if name == "bit_errors":
        memory = BitErrorConfig(
            rates=budget.bit_error_rates, memories=budget.memories, threads=config.threads, seed=config.seed
        )
        return bit_errors([subject], images.test, memory)
    physical = PhysicalConfig(
        steps=budget.steps,
        patch_share=budget.patch_share,
        patch_target=budget.patch_target,
        epsilon=budget.epsilon,
        seed=config.seed,
    )
    return (patch if name == "patch" else universal)([subject], images, physical)
