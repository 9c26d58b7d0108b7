"""Steps: look for signs of a backdoor, on clean reference networks and on the networks of the run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from devices.errors import DataError, ModelError, RecipeError
from devices.files import write_json
from devices.stage import Metrics
from devices.statistics import wilson
from pipeline.compute import deterministic
from pipeline.data import Dataset, Split, seeded_choice
from pipeline.model import build_network
from pipeline.prune.network import inference
from pipeline.recovery.machine import accelerator_of
from pipeline.scan_nodes import INT8_SUFFIX, REFERENCES, reference_fit
from pipeline.steps.convert import ONNX_FILE
from pipeline.steps.networks import network_of
from pipeline.threats.fake_quant import fake_quantized
from pipeline.threats.kit.victim import train_clean
from pipeline.threats.scan.clustering import cluster
from pipeline.threats.scan.findings import Finding, table_lines
from pipeline.threats.scan.judge import judge_inversion, judge_sensitivity, judge_stages, judge_warping
from pipeline.threats.scan.look import CleanImages, Look, References, look_at
from pipeline.twin.build import build_twin
from pipeline.work import StepInputs, Work

SCAN_FILE = "scan.json"
TORCH_FORM = "torch network"
TWIN_FORM = "twin of the quantized graph"
_REFERENCE_SEED = 7919


def references(inputs: StepInputs) -> Metrics:
    """Train networks of the same factory on the clean test images that are not looked at, and look at them."""
    work = inputs.work
    clean = _clean_images(work)
    recipe, test = work.recipe, work.dataset.test
    looked = _looked_at(work)
    rest = np.setdiff1d(np.arange(len(test)), looked)
    if len(set(test.labels[rest].tolist())) < len(work.dataset.class_names):
        what = f"has {len(rest)} images beside those looked at, and references learn every class from them"
        raise DataError("data: test", what, "Give more, or set threats.references = 0")
    held = Dataset(Split(test.images[rest], test.labels[rest]), test, work.dataset.class_names)
    config = reference_fit(recipe.train)
    if recipe.train is not None:
        # Of as many steps as the network had: of fewer images each epoch has fewer.
        epochs = -(-recipe.train.epochs * len(work.dataset.train) // len(rest))
        config = config.model_copy(update={"epochs": epochs})
    norms, losses, shifts = [], [], []
    for number in range(recipe.threats.references):
        inputs.progress(number, recipe.threats.references, f"reference {number + 1}")
        seed = recipe.seed + _REFERENCE_SEED * (number + 1)
        network = train_clean(build_network(recipe.model, seed, recipe.task), held, config, seed, recipe.threads)
        with deterministic(recipe.seed, recipe.threads, accelerator_of("auto") == "cpu"):
            look = look_at(network, clean, recipe.threats, recipe.seed)
        norms.append(look.log_norms.tolist() if look.inversion is not None else [])
        shifts.append(look.log_shifts.tolist() if look.warping is not None else [])
        losses.append(look.sensitivity.loss if look.sensitivity is not None else None)
    return {"log_norms": norms, "log_shifts": shifts, "losses": losses}


def scan(inputs: StepInputs) -> Metrics:
    """Look at one network, and at it beside the one before."""
    work, options = inputs.work, inputs.options
    recipe = work.recipe
    clean, network = _clean_images(work), network_of(inputs, options["network"])
    before = None if options["before"] is None else (options["before"], network_of(inputs, options["before"]))
    name, form = options["network"], TORCH_FORM
    if options["graph"] is not None:
        name += INT8_SUFFIX
        network, form = _int8_form(inputs, network)
    inputs.progress(0, 1, name)
    with deterministic(recipe.seed, recipe.threads, accelerator_of("auto") == "cpu"):
        look = look_at(network, clean, recipe.threats, recipe.seed, inputs.progress)
        found = _findings(work, name, look, network, before, clean, _references(inputs))
        found = _unless_at_chance(found, network, clean)
    told = [finding.as_dict() for finding in found]
    content = {"network": name, "form": form, "findings": told, "samples": len(clean.labels)}
    content["lines"] = table_lines(told)
    write_json(inputs.folder / SCAN_FILE, content)
    if look.inversion is not None:
        # For who wants to see the triggers, or to show them to an engine.
        np.savez(
            inputs.folder / "triggers.npz",
            mask=look.inversion.masks_KHW.numpy(),
            pattern=look.inversion.patterns_KCHW.numpy(),
        )
    if look.warping is not None:
        np.savez(inputs.folder / "warps.npz", field=look.warping.fields_K2HW.numpy())
    return content


def _int8_form(inputs: StepInputs, network: nn.Module) -> tuple[nn.Module, str]:
    """The twin of the quantized graph; where an operator has no torch form, a copy that rounds nearly as the graph."""
    work, options = inputs.work, inputs.options
    try:
        return build_twin(inputs.path(options["graph"]) / ONNX_FILE), TWIN_FORM
    except ModelError as error:
        train = work.dataset.train
        chosen = seeded_choice(len(train), options["calibration_samples"], work.recipe.seed)
        rounded = fake_quantized(network, torch.from_numpy(train.batch(chosen)), options["weight_bits"])
        return rounded, f"torch network that rounds nearly as the quantized graph, which {error.what}"


def _findings(
    work: Work,
    name: str,
    look: Look,
    network: nn.Module,
    before: tuple[str, nn.Module] | None,
    clean: CleanImages,
    known: References | None,
) -> list[Finding]:
    config, names = work.recipe.threats, clean.class_names
    rate = config.false_alarm_rate
    found = []
    if look.inversion is not None:
        found.append(judge_inversion(name, look, known, names, rate))
    if look.warping is not None:
        found.append(judge_warping(name, look, known, names, rate))
    if look.sensitivity is not None:
        found.append(judge_sensitivity(name, look, known, names, rate))
    if "stages" in config.scan and before is not None:
        found.append(judge_stages(name, look, network, before, clean, rate))
    if "clustering" in config.scan:
        found.append(cluster(name, network, work.dataset.train, names, rate, work.recipe.seed))
    return found


def _unless_at_chance(found: list[Finding], network: nn.Module, clean: CleanImages) -> list[Finding]:
    """Of a network that answers at random nothing is judged: nothing would be a sign, and nothing the lack of one."""
    with inference(network):
        right = int((network(clean.images).argmax(dim=1) == clean.labels).sum())
    count = len(clean.labels)
    if wilson(right, count).low > 1 / len(clean.class_names):
        return found
    reason = f"it is right on {right} of {count} clean images, which is near chance"
    return [replace(item, threshold=None, false_alarm_rate=None, sign=False, assumes=reason) for item in found]


def _looked_at(work: Work) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return seeded_choice(len(work.dataset.test), work.recipe.threats.samples, work.recipe.seed)


def _clean_images(work: Work) -> CleanImages:
    if work.recipe.task.kind != "classification":
        raise RecipeError("threats.scan", "looks for triggers of classes, one an image", "Leave it out for this task")
    test, looked = work.dataset.test, _looked_at(work)
    return CleanImages(
        images=torch.from_numpy(test.batch(looked)),
        labels=torch.from_numpy(test.labels[looked]),
        class_names=work.dataset.class_names,
    )


def _references(inputs: StepInputs) -> References | None:
    if REFERENCES not in inputs.results:
        return None
    told = inputs.results[REFERENCES].metrics
    losses = [value for value in told["losses"] if value is not None]
    norms, shifts = ([row for row in told[name] if row] for name in ("log_norms", "log_shifts"))
    return References(
        log_norms=np.array(norms),
        log_losses=np.log(np.maximum(losses, 1e-12)),
        log_shifts=np.array(shifts) if shifts else np.zeros((0, 0)),
    )
