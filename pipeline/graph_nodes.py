"""The part of the chain from a network to its engines: one graph and one engine for each precision."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pipeline.engine_plan import graph_of, least_opset
from pipeline.node import ONNX, ORT, TENSORRT, Node, make_node
from pipeline.recipe import Recipe, section_of
from pipeline.steps.build_job import build_job
from pipeline.tuning import tune_nodes
from pipeline.work import Work

ENGINE_PREFIX = "engine "


def graph_nodes(work: Work, form: str, network: str | None, model: dict[str, Any], data: dict[str, Any]) -> list[Node]:
    """From the torch network of that name to engines; without one, from the recipe's ONNX file.

    `model` and `data` are fingerprints.
    """
    recipe, plan = work.recipe, work.engines
    shared = {"data": data, "parity": _parity(recipe), "seed": recipe.seed, "threads": recipe.threads}
    shared |= {"task": model["task"], "two_of_four": form == "compressed" and work.sparse}
    written = shared | {"model": model, "opset": work.opset}
    if network is None:
        taken = written | {"least_opset": least_opset(plan)}
        exported = make_node(f"imported {form}", "import", "take_in:take_in", (), taken, ONNX)
    else:
        exported = make_node(f"exported {form}", "export", "convert:export", (network,), written, ONNX)
    config = shared | {"source": exported.name}
    libraries = (*ONNX, "onnxsim")
    simplified = make_node(f"simplified {form}", "simplify", "convert:simplify", (exported.name,), config, libraries)
    nodes = [exported, simplified]
    for precision in plan.precisions:
        source = simplified.name
        if precision in ("int8", "fp8"):
            nodes += _quantize_nodes(work, form, source, shared)
            source = nodes[-1].name
        graph = graph_of(f"{form}-{precision}", plan)
        if graph != source:
            config = shared | {"source": source, "precision": precision}
            nodes.append(make_node(graph, "half", "quantize:half", (source,), config, ONNX))
        tuned = tune_nodes(work, f"{form}-{precision}", graph)
        needs = (graph, *(node.name for node in tuned))
        nodes += [*tuned, _build_node(work, f"{form}-{precision}", needs, shared)]
    return nodes


def quantize_section(recipe: Recipe, *without: str) -> dict[str, Any]:
    """What [quantize] says, but for the keys that a step does not look at."""
    return {key: value for key, value in section_of(recipe.quantize).items() if key not in without}


def _quantize_nodes(work: Work, form: str, source: str, shared: dict[str, Any]) -> list[Node]:
    """Layers chosen by the accuracy budget, if there is one, and the quantized graph."""
    recipe = work.recipe
    config = shared | {
        "source": source,
        "quantize": quantize_section(recipe, "only_if_faster", "rest", "mixed"),
        "runtime": work.profile.engine.runtime,
        "activations": work.profile.engine.int8_activations,
        "weight_bits": work.weight_bits,
    }
    mixed = None
    nodes = []
    if recipe.quantize.mixed is not None:
        budget = {"budget": section_of(recipe.quantize.mixed), "passed_over": recipe.parity.samples}
        mixed = make_node(f"mixed {form}", "mixed", "quantize:mix", (source,), config | budget, ONNX)
        nodes.append(mixed)
    needs = (source, *((mixed.name,) if mixed else ()))
    config |= {"mixed": mixed.name if mixed else None}
    return [*nodes, make_node(f"quantized {form}", "quantize", "quantize:quantize", needs, config, ONNX)]


def _parity(recipe: Recipe) -> dict[str, Any]:
    """What borders are held to; the images are those after the ones of the calibration."""
    return section_of(recipe.parity) | {"after": recipe.quantize.calibration_samples}


def _build_node(work: Work, engine: str, needs: tuple[str, ...], shared: dict[str, Any]) -> Node:
    profile = work.profile
    name = f"{ENGINE_PREFIX}{engine}"
    if profile.engine.runtime == "onnxruntime":
        options: dict[str, Any] = {"provider": profile.engine.provider, "threads": profile.engine.threads}
        options["session"] = asdict(profile.session)
        host: dict[str, Any] = {"host_class": work.engine_class}
    else:
        options = {
            "runtime": profile.engine.runtime,
            "allowed": list(profile.engine.precisions),
            "compute_capability": profile.hardware.compute_capability,
            "workspace_mb": profile.engine.workspace_mb,
        }
        # What is run here is proved here; TensorRT measures its kernels on the machine that it builds on.
        host = {"measured": work.measured, "host": work.device_key if work.measured else None}
        if work.graphs_alone:
            host["host_class"] = work.engine_class
    job = build_job(work, engine.rpartition("-")[2], shared["two_of_four"])
    config = shared | {"engine": options, "build": job} | host
    return make_node(name, "build", "build:build", needs, config, (*ORT, *TENSORRT))
