"""The chain as data: which steps a recipe needs, what each depends on, and what decides its result."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from devices.stage import Metrics
from pipeline.opset import choose_opset
from pipeline.recipe import Recipe, section_of
from pipeline.work import StepInputs, Work

_DATA = ("numpy", "pillow", "scikit-learn")
_TORCH = ("torch", *_DATA)
_ORT = ("onnxruntime", "onnxruntime-gpu", *_DATA)
_ONNX = ("torch", "onnx", "onnxscript", *_ORT)


@dataclass(frozen=True, kw_only=True)
class Node:
    """One step of a run."""

    name: str
    """Unique in the run, such as `quantized dense`."""
    stage: str
    """What the user calls it, and its folder in the store."""
    step: str
    """`module:function` of the step, imported only when it runs."""
    needs: tuple[str, ...]
    config: dict[str, Any]
    """All that decides the result besides code, libraries and the results it needs."""
    libraries: tuple[str, ...]

    def load(self) -> Callable[[StepInputs], Metrics]:
        """Import the step."""
        module, _, name = self.step.partition(":")
        return cast(Callable[[StepInputs], Metrics], getattr(importlib.import_module(module), name))


def chain_of(work: Work, model: dict[str, Any], data: dict[str, Any]) -> tuple[Node, ...]:
    """Every step of the run, in an order in which each follows what it needs.

    `model` and `data` are the fingerprints of the recipe's sections of these names.
    """
    nodes = _network_nodes(work, model, data)
    forms = {"dense": "dense"}
    if work.recipe.prune:
        forms["compressed"] = nodes[-1].name
    engines: list[Node] = []
    for form, network in forms.items():
        converted = _convert_nodes(work, form, network, model, data)
        nodes += converted
        engines += [node for node in converted if node.stage == "build"]
    nodes.append(_craft_node(work, tuple(forms.values()), model, data))
    return (*nodes, *_judge_nodes(work, [node.name for node in engines], data))


def _network_nodes(work: Work, model: dict[str, Any], data: dict[str, Any]) -> list[Node]:
    recipe = work.recipe
    shared = {"model": model, "data": data, "seed": recipe.seed, "threads": recipe.threads}
    learning = shared | {"objective": section_of(recipe.objective)}
    if recipe.train:
        config = learning | {"train": section_of(recipe.train)}
        dense = _node("dense", "train", "network:train", (), config, _TORCH)
    else:
        dense = _node("dense", "load", "network:load", (), shared, (*_TORCH, "safetensors"))
    nodes = [dense]
    if recipe.prune:
        config = shared | {"prune": section_of(recipe.prune), "channel_step": work.profile.pruning.channel_step}
        nodes.append(_node("pruned", "prune", "network:prune", ("dense",), config, _TORCH))
    if recipe.finetune:
        config = learning | {"finetune": section_of(recipe.finetune)}
        nodes.append(_node("recovered", "finetune", "network:finetune", ("pruned",), config, _TORCH))
    return nodes


def _convert_nodes(work: Work, form: str, network: str, model: dict[str, Any], data: dict[str, Any]) -> list[Node]:
    recipe = work.recipe
    shared = {"data": data, "parity": _parity(recipe), "seed": recipe.seed, "threads": recipe.threads}
    opset = choose_opset(recipe.export, work.profile)
    exported = _node(
        f"exported {form}",
        "export",
        "convert:export",
        (network,),
        shared | {"model": model, "opset": opset},
        _ONNX,
    )
    simplified = _node(
        f"simplified {form}", "simplify", "convert:simplify", (exported.name,), shared, (*_ONNX, "onnxsim")
    )
    nodes = [exported, simplified, _build_node(work, f"{form}-fp32", simplified.name, shared)]
    if recipe.quantize.precision == "int8":
        config = shared | {
            "quantize": section_of(recipe.quantize),
            "activations": work.profile.engine.int8_activations,
            "weight_bits": work.weight_bits,
        }
        quantized = _node(f"quantized {form}", "quantize", "convert:quantize", (simplified.name,), config, _ONNX)
        nodes += [quantized, _build_node(work, f"{form}-int8", quantized.name, shared)]
    return nodes


def _parity(recipe: Recipe) -> dict[str, Any]:
    """What borders are held to; the images are those after the ones of the calibration."""
    return section_of(recipe.parity) | {"after": recipe.quantize.calibration_samples}


def _build_node(work: Work, engine: str, source: str, shared: dict[str, Any]) -> Node:
    options = {"provider": work.profile.engine.provider, "threads": work.profile.engine.threads}
    config = shared | {"engine": options, "host_class": work.host.engine_class}
    return _node(f"engine {engine}", "build", "convert:build", (source,), config, _ORT)


def _craft_node(work: Work, networks: tuple[str, ...], model: dict[str, Any], data: dict[str, Any]) -> Node:
    recipe = work.recipe
    config = {
        "model": model,
        "data": data,
        "robustness": section_of(recipe.robustness),
        "seed": recipe.seed,
        "threads": recipe.threads,
    }
    return _node("sets", "craft", "craft:craft", networks, config, (*_TORCH, "scipy"))


def _judge_nodes(work: Work, engines: list[str], data: dict[str, Any]) -> list[Node]:
    recipe = work.recipe
    shipped = {"shipped": work.shipped}
    batches = {"batch_sizes": list(work.profile.measure.batch_sizes)}
    host = {"host": work.host.fingerprint}
    runtime = _ORT
    measure_config = shipped | batches | host | {"measure": section_of(recipe.measure), "seed": recipe.seed}
    measure = _node("measurements", "measure", "engine:measure", tuple(engines), measure_config, runtime)
    attack_config = {"host_class": work.host.engine_class}
    attack = _node("replays", "attack", "engine:attack", (*engines, "sets"), attack_config, runtime)
    judged = ("measurements", "replays")
    gate_config = shipped | {"gate": section_of(recipe.gate)}
    gate = _node("verdict", "gate", "publish:gate", judged, gate_config, ())
    whole = {"recipe": section_of(recipe), "profile": work.profile.name, "data": data} | host
    written = whole | {"command": work.command}
    networks = ["dense", *(["pruned"] if recipe.prune else []), *(["recovered"] if recipe.finetune else [])]
    forms = ["dense", *(["compressed"] if recipe.prune else [])]
    int8 = recipe.quantize.precision == "int8"
    graphs = [
        f"{step} {form}" for form in forms for step in ("exported", "simplified", *(["quantized"] if int8 else []))
    ]
    everything = (*networks, *graphs, *engines, "sets", *judged, "verdict")
    bundle = _node("deploy", "bundle", "publish:deploy", everything, whole, _DATA)
    report = _node("report", "report", "publish:report", everything, written, ("jinja2", "pillow"))
    evidence = _node("evidence", "evidence", "publish:evidence", (*everything, "report"), whole, ())
    return [measure, attack, gate, bundle, report, evidence]


def _node(
    name: str, stage: str, step: str, needs: tuple[str, ...], config: dict[str, Any], libraries: tuple[str, ...]
) -> Node:
    return Node(name=name, stage=stage, step=f"pipeline.steps.{step}", needs=needs, config=config, libraries=libraries)
