"""Step: remove a share of what the schedule removes, from the network of the step before."""

from __future__ import annotations

from typing import Any

from torch import nn

from devices.errors import StorageError
from devices.files import read_json, write_json
from devices.stage import Metrics
from pipeline.compute import deterministic
from pipeline.latency_source.setting import MEASURED_FILE
from pipeline.model import NetworkArtifact, load_plan
from pipeline.prune.learned.stage import ScoresArtifact, read_scores
from pipeline.prune.plan import PruningPlan
from pipeline.prune.pruning import Pruning
from pipeline.prune.stage import prune_network
from pipeline.search.study import Trial
from pipeline.steps.chosen import chosen_trial
from pipeline.steps.condition import recalibrated, score_of
from pipeline.steps.networks import network_of
from pipeline.steps.pruning_inputs import criterion_batches, latency_setting, objective_loss, tuning
from pipeline.steps.size import first_image
from pipeline.work import StepInputs


def prune(inputs: StepInputs) -> Metrics:
    """Prune, measure the statistics of BatchNorm anew, and tell the score before and after that."""
    work, before = inputs.work, inputs.options["before"]
    recipe = work.recipe
    assert recipe.prune is not None
    dense = network_of(inputs, "dense")
    latency = None
    # The milliseconds of a searched point are those of the search.
    if recipe.prune.target_latency_ms is not None and recipe.search is None:
        assert inputs.partial is not None
        latency = latency_setting(inputs, inputs.partial)
    chosen = _chosen(inputs)
    pruning = Pruning(
        network=dense if before == "dense" else network_of(inputs, before),
        image_NCHW=first_image(inputs),
        channel_step=work.profile.pruning.channel_step,
        dense=dense,
        plan=load_plan(NetworkArtifact(inputs.path(before))) or PruningPlan(),
        step=inputs.options["step"],
        batches=criterion_batches(inputs),
        loss=objective_loss(recipe),
        tune=tuning(inputs),
        seed=recipe.seed,
        precision=recipe.quantize.precision,
        latency=latency,
        widths=chosen.keep if chosen else None,
        progress=inputs.progress,
        learned=read_scores(ScoresArtifact(inputs.path("scores"))) if recipe.prune.criterion == "learned" else None,
    )

    def finish(network: nn.Module) -> dict[str, Any]:
        scores = {"score_before_recalibration": score_of(network, inputs)}
        layers = recalibrated(network, inputs)
        after = score_of(network, inputs) if layers else scores["score_before_recalibration"]
        return {**scores, "score_before_recovery": after, "recalibrated_layers": layers}

    with deterministic(recipe.seed, recipe.threads):
        result = prune_network(recipe.prune, pruning, inputs.folder, finish)
    if latency is not None and (latency.folder / MEASURED_FILE).is_file():
        # A measurement that decides is kept with what it decided.
        write_json(inputs.folder / MEASURED_FILE, read_json(latency.folder / MEASURED_FILE, StorageError))
    return {**result.metrics, "chosen": chosen.name if chosen else None}


def _chosen(inputs: StepInputs) -> Trial | None:
    """The point of the search that the recipe takes."""
    recipe = inputs.work.recipe
    if recipe.search is None or recipe.prune is None:
        return None
    dense = inputs.results["dense"].metrics
    return chosen_trial(recipe.prune, recipe.search.choose, inputs.path("search"), dense["macs"], dense["parameters"])
