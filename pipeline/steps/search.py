"""Step: search the widths that groups keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from devices.stage import Metrics
from pipeline.model import NetworkArtifact
from pipeline.prune.channels import rank_groups
from pipeline.prune.groups import Unit
from pipeline.prune.macs import macs_counter
from pipeline.prune.pruning import Pruning
from pipeline.search.stage import SearchInputs, search_widths
from pipeline.steps.networks import network_of
from pipeline.steps.pruning_inputs import criterion_batches, latency_setting, objective_loss
from pipeline.steps.size import first_image
from pipeline.work import StepInputs

_JOURNAL = "journal.jsonl"


def search(inputs: StepInputs) -> Metrics:
    """Try widths, and write the study."""
    work = inputs.work
    recipe = work.recipe
    assert recipe.search is not None
    assert recipe.prune is not None
    assert inputs.partial is not None
    dense = network_of(inputs, "dense")
    pruning = Pruning(
        network=dense,
        image_NCHW=first_image(inputs),
        channel_step=work.profile.pruning.channel_step,
        batches=criterion_batches(inputs),
        loss=objective_loss(recipe),
        seed=recipe.seed,
        precision=recipe.quantize.precision,
    )
    ranking = rank_groups(recipe.prune, pruning)
    measures: dict[str, Callable[[Sequence[Unit]], float]] = {}
    if "latency_ms" in recipe.search.objectives:
        measured = latency_setting(inputs, inputs.partial).measured(dense, dense)
        measures["latency_ms"] = measured.latency_ms
    stage_inputs = SearchInputs(
        model=recipe.model,
        artifact=NetworkArtifact(inputs.path("dense")),
        network=dense,
        ranked=ranking.ranked,
        snapping=ranking.snapping,
        macs_without=macs_counter(ranking.grouping.trace),
        train=work.dataset.train,
        objective=recipe.objective,
        recalibrate=recipe.recalibrate,
        task=recipe.task,
        seed=recipe.seed,
        precision=recipe.quantize.precision,
        measures=measures,
    )
    inputs.partial.mkdir(parents=True, exist_ok=True)
    journal = inputs.partial / _JOURNAL
    return search_widths(recipe.search, stage_inputs, inputs.folder, journal, inputs.progress).metrics
