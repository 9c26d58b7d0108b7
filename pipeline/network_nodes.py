"""The part of the chain that works on torch networks: dense, search, then pruned and recovered, step by step."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, Literal

from pipeline.graph_nodes import quantize_section
from pipeline.node import ORT, TORCH, Node, make_node
from pipeline.prune.schedule import epochs_of
from pipeline.recipe import FitConfig, section_of
from pipeline.recipe.fit import short_fit
from pipeline.recipe.prune import TARGETS
from pipeline.work import Work


def network_nodes(work: Work, model: dict[str, Any], data: dict[str, Any]) -> list[Node]:
    """Dense network first; the network that ships last. `model` and `data` are fingerprints."""
    recipe = work.recipe
    shared = {"model": model, "data": data, "seed": recipe.seed, "threads": recipe.threads}
    learning = shared | {"objective": section_of(recipe.objective)}
    if recipe.train:
        config = learning | {
            "train": section_of(recipe.train),
            "recalibrate": section_of(recipe.recalibrate),
            "placement": placement_here(recipe.train, work.host.gpus),
        }
        dense = make_node("dense", "train", "dense:train", (), config, _libraries(recipe.train))
    else:
        dense = make_node("dense", "load", "dense:load", (), shared, (*TORCH, "safetensors"))
    nodes = [dense]
    if recipe.search:
        nodes.append(_search_node(work, learning))
    if recipe.prune and recipe.prune.criterion == "learned":
        nodes.append(_learn_node(work, learning))
    if recipe.prune:
        nodes += _schedule_nodes(work, learning)
    if recipe.model.onnx is None:
        return nodes
    # Its torch form is made with these.
    return [replace(node, libraries=(*node.libraries, "onnx", "onnxruntime")) for node in nodes]


def names_of_step(step: int, steps: int) -> tuple[str, str]:
    """Names of the pruned and the recovered network of one step of a schedule; those of the last have no number."""
    return ("pruned", "recovered") if step == steps else (f"pruned {step}/{steps}", f"recovered {step}/{steps}")


def _schedule_nodes(work: Work, learning: dict[str, Any]) -> list[Node]:
    recipe = work.recipe
    assert recipe.prune is not None
    steps = recipe.prune.steps
    epochs = epochs_of(recipe.finetune.epochs, steps) if recipe.finetune else (0,) * steps
    nodes: list[Node] = []
    before = "dense"
    for step in range(1, steps + 1):
        pruned, recovered = names_of_step(step, steps)
        nodes.append(_prune_node(work, learning, pruned, before, step))
        before = pruned
        if recipe.finetune:
            nodes.append(_finetune_node(work, learning, recovered, before, step, epochs[step - 1]))
            before = recovered
    return nodes


def _learn_node(work: Work, learning: dict[str, Any]) -> Node:
    recipe = work.recipe
    assert recipe.prune is not None
    config = learning | {
        "prune": section_of(recipe.prune),
        "channel_step": work.profile.pruning.channel_step,
        "precision": recipe.quantize.precision,
        "keep_order": list(recipe.prune.keep),
        "accelerator": accelerator_here(recipe.prune.learned.accelerator, work.host.gpus),
    }
    return make_node("scores", "learn", "learn:learn", ("dense",), config, (*TORCH, "safetensors"))


def _prune_node(work: Work, learning: dict[str, Any], name: str, before: str, step: int) -> Node:
    recipe = work.recipe
    assert recipe.prune is not None
    config = learning | {
        "prune": section_of(recipe.prune),
        "recalibrate": section_of(recipe.recalibrate),
        "channel_step": work.profile.pruning.channel_step,
        "step": step,
        "before": before,
        # The first glob that matches counts, and a table's order is not in its digest.
        "keep_order": list(recipe.prune.keep),
    }
    libraries: tuple[str, ...] = TORCH
    if recipe.prune.tune_samples:
        tuning = short_fit(recipe.finetune)
        config["tuning"] = {"fit": section_of(tuning), "placement": placement_here(tuning, work.host.gpus)}
    if recipe.prune.target_size_bytes is not None or recipe.prune.target_latency_ms is not None:
        config["precision"] = recipe.quantize.precision
    if recipe.prune.target_latency_ms is not None:
        config |= _milliseconds(work)
        libraries = (*ORT, "onnx", "onnxscript", "onnxsim", "torch")
    learned = ("scores",) if recipe.prune.criterion == "learned" else ()
    needs = tuple(dict.fromkeys(("dense", before, *(("search",) if recipe.search else ()), *learned)))
    if recipe.search:
        config["choose"] = recipe.search.choose
    return make_node(name, "prune", "prune:prune", needs, config, libraries)


def _milliseconds(work: Work) -> dict[str, Any]:
    """What decides the latency of engines that are made on the way.

    It is measured here, or predicted from the profile: another host or another profile, another result.
    """
    return {
        "profile": asdict(work.profile),
        "host": work.device_key,
        "quantize": quantize_section(work.recipe, "only_if_faster"),
        "opset": work.opset,
        "warmup_s": work.recipe.measure.warmup_s,
    }


def _finetune_node(work: Work, learning: dict[str, Any], name: str, pruned: str, step: int, epochs: int) -> Node:
    recipe = work.recipe
    assert recipe.finetune is not None
    config = learning | {
        "finetune": section_of(recipe.finetune),
        "recalibrate": section_of(recipe.recalibrate),
        "distill": section_of(recipe.distill) if recipe.distill else None,
        "step": step,
        "epochs": epochs,
        "pruned": pruned,
        "placement": placement_here(recipe.finetune, work.host.gpus),
    }
    needs = (pruned, "dense") if recipe.distill else (pruned,)
    return make_node(name, "finetune", "recover:finetune", needs, config, _libraries(recipe.finetune))


def accelerator_here(asked: Literal["cpu", "cuda", "auto"], gpus: tuple[str, ...]) -> str:
    """Where one process would compute here: a GPU gives other digits than a CPU."""
    if _on_cpu(asked, gpus):
        return "cpu"
    # Imports torch, as below.
    from pipeline.recovery.machine import accelerator_of

    return accelerator_of(asked)


def _on_cpu(asked: Literal["cpu", "cuda", "auto"], gpus: tuple[str, ...]) -> bool:
    return asked == "cpu" or (asked == "auto" and not gpus)


def placement_here(config: FitConfig, gpus: tuple[str, ...]) -> dict[str, Any]:
    """Where it would train here, and in which number format."""
    if _on_cpu(config.accelerator, gpus) and config.precision != "bf16":
        return {"accelerator": "cpu", "precision": "fp32", "devices": config.devices}
    # Imports torch, which takes longer than all else that a run with stored results does.
    from pipeline.recovery.machine import place

    return asdict(place(config))


def _libraries(config: FitConfig) -> tuple[str, ...]:
    fabric = config.devices > 1 or config.precision != "fp32"
    return (*TORCH, "lightning-fabric") if fabric else TORCH


def _search_node(work: Work, learning: dict[str, Any]) -> Node:
    recipe = work.recipe
    assert recipe.search is not None
    assert recipe.prune is not None
    search = section_of(recipe.search)
    # How many look, where, and which point is taken: none of it changes what is found.
    for key in ("workers", "address", "choose"):
        del search[key]
    # Nor does the target of pruning: it decides which point is taken.
    config = learning | {
        "search": search,
        "prune": {key: value for key, value in section_of(recipe.prune).items() if key not in TARGETS},
        "recalibrate": section_of(recipe.recalibrate),
        "channel_step": work.profile.pruning.channel_step,
        "precision": recipe.quantize.precision,
    }
    libraries: tuple[str, ...] = (*TORCH, "optuna")
    if "latency_ms" in recipe.search.objectives:
        config |= _milliseconds(work)
        libraries = (*libraries, *ORT, "onnx", "onnxscript", "onnxsim")
    return make_node("search", "search", "search:search", ("dense",), config, libraries)
