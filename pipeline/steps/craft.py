"""Step: evaluation sets, crafted on the dense and the compressed network."""

from __future__ import annotations

from devices.stage import Metrics
from pipeline.attacks.craft import craft_sets
from pipeline.data import seeded_choice
from pipeline.model import NetworkArtifact, load_network
from pipeline.tasks.select import task_of
from pipeline.work import StepInputs


def craft(inputs: StepInputs) -> Metrics:
    """Attack every network of the run that has gradients."""
    recipe, test = inputs.work.recipe, inputs.work.dataset.test
    names = {"dense": "dense", "recovered": "compressed", "pruned": "compressed"}
    surrogates = {
        names[node]: load_network(recipe.model, NetworkArtifact(stored.folder), recipe.seed, recipe.task)
        for node, stored in inputs.results.items()
    }
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
