"""Step: evaluation sets, crafted on the dense and the compressed network, and on the twin of what ships."""

from __future__ import annotations

from torch import nn

from devices.stage import Metrics
from pipeline.attacks.craft import craft_sets
from pipeline.data import seeded_choice
from pipeline.model import NetworkArtifact, load_network
from pipeline.steps.convert import ONNX_FILE
from pipeline.tasks.select import task_of
from pipeline.twin.build import build_twin
from pipeline.twin.node import TWIN_STAGE
from pipeline.work import StepInputs


def craft(inputs: StepInputs) -> Metrics:
    """Attack every network of the run that has gradients."""
    recipe, test = inputs.work.recipe, inputs.work.dataset.test
    names = {"dense": "dense", "recovered": "compressed", "pruned": "compressed"}
    surrogates = {
        names[node]: load_network(recipe.model, NetworkArtifact(stored.folder), recipe.seed, recipe.task)
        for node, stored in inputs.results.items()
        if node in names
    } | _twin(inputs)
    chosen = seeded_choice(len(test), recipe.robustness.samples, recipe.seed)
    result = craft_sets(
        recipe.robustness,
        surrogates,
        test.batch(chosen),
        test.labels[chosen],
        recipe.seed,
        recipe.threads,
        inputs.folder,
        inputs.progress,
        task_of(recipe.task),
    )
    return result.metrics


def _twin(inputs: StepInputs) -> dict[str, nn.Module]:
    """The fake-quantized twin, where there is one that was proved."""
    kept = [stored.metrics["kept"] for stored in inputs.results.values() if stored.folder.parent.name == TWIN_STAGE]
    if not any(kept):
        return {}
    (graph,) = (stored.folder for stored in inputs.results.values() if stored.folder.parent.name == "quantize")
    return {"twin": build_twin(graph / ONNX_FILE)}
