"""Step: recover the pruned network with the loss of the training."""

from __future__ import annotations

from devices.stage import Metrics
from pipeline.model import NetworkArtifact, load_plan, save_network
from pipeline.recovery.job import FitJob
from pipeline.recovery.launch import recover
from pipeline.steps.condition import recalibrated, score_of
from pipeline.steps.networks import load
from pipeline.steps.size import network_size
from pipeline.work import StepInputs


def finetune(inputs: StepInputs) -> Metrics:
    """Fine-tune, measure the statistics of BatchNorm anew, and tell the score."""
    recipe, options = inputs.work.recipe, inputs.options
    assert recipe.finetune is not None
    pruned = inputs.path(options["pruned"])
    job = FitJob(
        recipe=recipe,
        config=recipe.finetune.model_copy(update={"epochs": options["epochs"]}),
        # Each step of a schedule draws images of its own.
        seed=recipe.seed + options["step"],
        student=pruned,
        teacher=inputs.path("dense") if recipe.distill else None,
        output=inputs.folder,
        checkpoints=inputs.partial,
    )
    report = recover(job, inputs.progress, inputs.work.dataset.train)
    network = load(inputs, inputs.folder)
    layers = recalibrated(network, inputs)
    if layers:
        save_network(network, load_plan(NetworkArtifact(pruned)), inputs.folder)
    told = {"score": score_of(network, inputs), "recalibrated_layers": layers}
    return report.metrics() | told | network_size(network, inputs)
