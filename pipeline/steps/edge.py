"""Steps: threats of small devices, each tried on every engine of the run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from devices.files import write_json
from devices.queries.base import Run
from devices.stage import Metrics
from pipeline.compute import deterministic
from pipeline.data import Split, seeded_choice
from pipeline.edge_nodes import in_one_process
from pipeline.model import build_network
from pipeline.recovery.fit import fit
from pipeline.steps.convert import ONNX_FILE
from pipeline.steps.edge_subjects import float_pairs, origin_of, subjects_of
from pipeline.steps.limits import graph_limits
from pipeline.steps.quantize import calibration_images, kept_layers, options_of
from pipeline.threats.edge.bit_errors import BitErrorConfig
from pipeline.threats.edge.bit_errors import bit_errors as try_bit_errors
from pipeline.threats.edge.calibration import PoisonedConfig, poisoned_calibration
from pipeline.threats.edge.differential import DifferentialConfig
from pipeline.threats.edge.differential import differential as try_differential
from pipeline.threats.edge.membership import MembershipConfig, Shadow
from pipeline.threats.edge.membership import membership as try_membership
from pipeline.threats.edge.physical import PhysicalConfig
from pipeline.threats.edge.physical import patch as try_patch
from pipeline.threats.edge.physical import universal as try_universal
from pipeline.threats.edge.record import Origin, Threat
from pipeline.threats.edge.subject import Images, Subject
from pipeline.threats.kit.success import answers_of
from pipeline.work import StepInputs, Work

THREAT_FILE = "threat.json"


def differential(inputs: StepInputs) -> Metrics:
    """Images that INT8 alone gets wrong."""
    budget = inputs.work.recipe.threats.edge_budget
    config = DifferentialConfig(epsilon=budget.epsilon, steps=budget.steps, seed=inputs.work.recipe.seed)
    images = _images(inputs.work)
    return _told(
        inputs, lambda: try_differential(float_pairs(inputs), images.test, config, origin_of(inputs), inputs.progress)
    )


def patch(inputs: StepInputs) -> Metrics:
    """A patch that can be printed."""
    return _told(inputs, lambda: try_patch(*_physical(inputs), inputs.progress))


def universal(inputs: StepInputs) -> Metrics:
    """One change for every image."""
    return _told(inputs, lambda: try_universal(*_physical(inputs), inputs.progress))


def calibration(inputs: StepInputs) -> Metrics:
    """Poisoned calibration images."""
    work = inputs.work
    recipe, activations = work.recipe, work.profile.engine.int8_activations
    assert activations is not None
    config = PoisonedConfig(
        shares=recipe.threats.edge_budget.poisoned_shares,
        steps=recipe.threats.edge_budget.steps,
        activations=activations,
        weight_bits=work.weight_bits,
        options=options_of(work, inputs.path("simplified dense") / ONNX_FILE, ()),
        kept={engine: kept_layers(inputs, chosen) for engine, chosen in inputs.options["mixed"].items()},
        limits=graph_limits(recipe.parity, "int8"),
        threads=recipe.threads,
        seed=recipe.seed,
    )
    images, judged = calibration_images(work), _images(work).test
    return _told(
        inputs,
        lambda: poisoned_calibration(float_pairs(inputs), images, work.parity_images, judged, config, inputs.progress),
    )


def bit_errors(inputs: StepInputs) -> Metrics:
    """Wrong bits in stored weights."""
    budget, recipe = inputs.work.recipe.threats.edge_budget, inputs.work.recipe
    config = BitErrorConfig(
        rates=budget.bit_error_rates, memories=budget.memories, threads=recipe.threads, seed=recipe.seed
    )
    judged = _images(inputs.work).test
    return _told(inputs, lambda: try_bit_errors(subjects_of(inputs), judged, config, inputs.progress))


def membership(inputs: StepInputs) -> Metrics:
    """Whether an image was one of training."""
    work = inputs.work
    budget = work.recipe.threats.edge_budget
    config = MembershipConfig(
        false_positive_rate=budget.false_positive_rate, shadows=budget.shadows, seed=work.recipe.seed
    )
    return _told(
        inputs,
        lambda: try_membership(subjects_of(inputs), _images(work), config, _shadow(inputs), origin_of(inputs)),
    )


def _physical(inputs: StepInputs) -> tuple[list[Subject], Images, PhysicalConfig, Origin]:
    return subjects_of(inputs), _images(inputs.work), physical_config(inputs.work), origin_of(inputs)


def physical_config(work: Work) -> PhysicalConfig:
    """Budget of patches and universal perturbations."""
    budget = work.recipe.threats.edge_budget
    return PhysicalConfig(
        steps=budget.steps,
        patch_share=budget.patch_share,
        patch_target=budget.patch_target,
        epsilon=budget.epsilon,
        seed=work.recipe.seed,
    )


def _told(inputs: StepInputs, attempt: Callable[[], Threat]) -> Metrics:
    recipe = inputs.work.recipe
    with deterministic(recipe.seed, recipe.threads):
        content = attempt().as_dict()
    write_json(inputs.folder / THREAT_FILE, content)
    return content


def _images(work: Work) -> Images:
    return Images(train=_part(work, work.dataset.train), test=_part(work, work.dataset.test))


def _part(work: Work, split: Split) -> Split:
    chosen = seeded_choice(len(split), work.recipe.threats.edge_budget.samples, work.recipe.seed)
    return Split(split.images[chosen], split.labels[chosen])


def _shadow(inputs: StepInputs) -> Shadow | None:
    work = inputs.work
    recipe = work.recipe
    if recipe.train is None or not recipe.threats.edge_budget.shadows:
        return None
    train, shadows = work.dataset.train, recipe.threats.edge_budget.shadows
    config = in_one_process(recipe.train)
    chosen = seeded_choice(len(train), recipe.threats.edge_budget.samples, recipe.seed)
    rest = np.setdiff1d(np.arange(len(train)), chosen)

    def train_shadow(part: Split, seed: int) -> Run:
        inputs.progress(seed - recipe.seed - 1, shadows, f"shadow network {seed - recipe.seed}")
        # Images that nobody asks about are in every shadow, so that each has about as many as the victim.
        images = np.concatenate([train.images[rest], part.images])
        split = Split(images, np.concatenate([train.labels[rest], part.labels]))
        network = build_network(recipe.model, seed, recipe.task)
        fit(network, split, recipe.objective, config, seed, recipe.threads, inputs.progress)
        return answers_of(network)

    return train_shadow
