"""A backdoor removed: units scored, cut as far as clean images allow, and what is left tuned on the same images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from devices.errors import DataError, ModelError, RecipeError
from devices.stage import Progress, StageResult
from pipeline.compute import deterministic
from pipeline.data import Split
from pipeline.model import NetworkArtifact, save_network
from pipeline.prune.groups import Group, find_groups
from pipeline.prune.network import copy_network
from pipeline.prune.plan import PruningPlan, compose_plans
from pipeline.prune.trace import trace_network
from pipeline.recipe import FitConfig, ObjectiveConfig
from pipeline.recovery.fit import fit
from pipeline.recovery.machine import accelerator_of
from pipeline.recovery.training import CLASSIFYING
from pipeline.threats.remove.choose import Chosen, choose_neurons
from pipeline.threats.remove.cut import cut_neurons
from pipeline.threats.remove.masking import neurons_of
from pipeline.threats.remove.scores import (
    AnpConfig,
    Clean,
    RnpConfig,
    anp_scores,
    dormant_scores,
    rnp_scores,
)
from pipeline.threats.remove.unlearn import COPIES, FOLLOWING, with_trigger

Method = Literal["fine-pruning", "anp", "rnp", "unlearning", "random", "finetune"]
METHODS: tuple[str, ...] = get_args(Method)
LEAST_SAMPLES = 10
_BATCH = 16
_UNLEARNED_BATCH = 32
# Frozen on networks of other seeds than any figure of the docs; the higher rate is fine-pruning's.
_RATES = {"fine-pruning": 0.02, "finetune": 0.02, "unlearning": 0.01}


@dataclass(frozen=True, kw_only=True)
class DefendConfig:
    """How a backdoor is removed. The last two methods are controls."""

    method: Method
    """`fine-pruning`: units dormant on clean images go, then fine-tuning. `anp`, `rnp`: neurons by masks, no tuning.
    `unlearning`: nothing is cut; the smallest trigger found is shown with clean answers. `random`: random neurons.
    `finetune`: fine-tuning alone."""
    max_drop: float = 10.0
    """Points of clean accuracy that cutting may cost on the clean samples, at the bad end of the 95 % interval. Fifty
    samples of which none is lost have a bad end of 5.3."""
    epochs: int = 20
    """Of tuning, by the methods that tune: how often every clean sample is seen."""
    count: int | None = None
    """Neurons that go whatever it costs, for controls; as many as clean images allow without."""
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class Defended:
    """A network after a defence, and what was done to it."""

    network: nn.Module
    plan: PruningPlan
    metrics: dict[str, Any]


def defend(network: nn.Module, clean: Split, config: DefendConfig, progress: Progress) -> Defended:
    """Remove what may carry a backdoor, by clean images alone. The network given is not changed.

    Raises `DataError` for fewer than ten clean samples, `ModelError` when nothing can be cut.
    """
    require_samples(len(clean))
    if config.method not in METHODS:
        raise RecipeError("--method", f"there is no '{config.method}'", f"Take one of {', '.join(METHODS)}")
    held = Clean(images=torch.from_numpy(clean.batch(slice(None))), labels=torch.from_numpy(clean.labels))
    cut, plan, told = copy_network(network).eval(), PruningPlan(), dict[str, Any]()
    progress(0, 2, config.method)
    if config.method not in ("unlearning", "finetune"):
        with deterministic(config.seed, config.threads) as generator:
            image = held.images[:1]
            groups = find_groups(network, trace_network(network, image), image, ()).groups
            chosen = _chosen(network, groups, held, config, generator)
            cut, plan = cut_neurons(network, groups, chosen.neurons)
        told = {
            "neurons_removed": len(chosen.neurons),
            "neurons": chosen.of,
            "tensors_cut": len(plan.cuts),
            "tried": [{"neurons": count, "drop_bad_end": lost} for count, lost in chosen.tried],
        }
    progress(1, 2, config.method)
    if config.method in _RATES:
        shown, epochs, batch, aim = clean, config.epochs, _BATCH, CLASSIFYING
        if config.method == "unlearning":
            shown, found = _unlearned(network, held, clean, config, progress)
            told |= found
            epochs, batch, aim = -(-config.epochs // COPIES), _UNLEARNED_BATCH, FOLLOWING
        tuning = FitConfig(epochs=epochs, batch_size=batch, learning_rate=_RATES[config.method])
        fit(cut, shown, ObjectiveConfig(), tuning, config.seed, config.threads, progress, masked=plan.masked, aim=aim)
    return Defended(network=cut.eval(), plan=plan, metrics=asdict(config) | told)


def require_samples(count: int) -> None:
    """Raises `DataError` for fewer clean samples than ten."""
    if count < LEAST_SAMPLES:
        what = f"{count} clean samples cannot tell a neuron that matters from one that does not"
        raise DataError("--clean-samples", what, f"Give {LEAST_SAMPLES} or more")


def save_defended(found: Defended, before: PruningPlan | None, folder: Path) -> StageResult[NetworkArtifact]:
    """Write the network as the chain's steps do: plan and weights. `before` is the plan of the network defended."""
    plan = compose_plans(before or PruningPlan(), found.plan)
    return StageResult(save_network(found.network, plan, folder), found.metrics)


def _chosen(
    network: nn.Module, groups: tuple[Group, ...], clean: Clean, config: DefendConfig, generator: torch.Generator
) -> Chosen:
    neurons = neurons_of(network, groups)
    if not neurons:
        raise ModelError("model", "has no channels that pruning can cut", "Use --method unlearning")
    match config.method:
        case "fine-pruning":
            scores = dormant_scores(network, neurons, clean)
        case "anp":
            scores = anp_scores(network, neurons, clean, AnpConfig(), generator)
        case "rnp":
            scores = rnp_scores(network, neurons, clean, RnpConfig(), generator)
        case _:
            scores = torch.rand(len(neurons), generator=generator)
    if config.count is not None:
        order = torch.argsort(scores)[: config.count]
        return Chosen(neurons=tuple(neurons[int(index)] for index in order), of=len(neurons), tried=())
    return choose_neurons(network, neurons, scores, clean, config.max_drop)


def _unlearned(
    network: nn.Module, held: Clean, clean: Split, config: DefendConfig, progress: Progress
) -> tuple[Split, dict[str, Any]]:
    exact = accelerator_of("auto") == "cpu"
    with deterministic(config.seed, config.threads, exact):
        return with_trigger(network, clean, _classes(network, held), config.seed, progress)


def _classes(network: nn.Module, held: Clean) -> int:
    with torch.no_grad():
        return int(network(held.images[:1]).shape[1])
