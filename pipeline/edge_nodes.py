"""The part of the chain that tries threats of small devices on every engine: one step a threat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.engine_plan import graph_of
from pipeline.graph_nodes import ENGINE_PREFIX
from pipeline.network_nodes import placement_here
from pipeline.node import ONNX, Node, make_node
from pipeline.recipe import FitConfig, ThreatsConfig, section_of
from pipeline.work import Work

EDGE_PREFIX = "threat "


def edge_nodes(
    work: Work, forms: Mapping[str, str], model: dict[str, Any], data: dict[str, Any], engines: tuple[str, ...]
) -> list[Node]:
    """One step for each threat of the recipe.

    `forms` names the torch network of each form, the dense one first; `model` and `data` are fingerprints, `engines`
    the names of the steps that built them.
    """
    recipe = work.recipe
    names = [engine.removeprefix(ENGINE_PREFIX) for engine in engines]
    graphs = {name: graph_of(name, work.engines) for name in names}
    simplified = tuple(f"simplified {form}" for form in forms)
    needs = tuple(dict.fromkeys((*forms.values(), *engines, *graphs.values(), *simplified)))
    # Attacks ask many times what answers: a board's engines are stood in for by their graphs.
    here = work.measured and work.board is None
    config = {
        "model": model,
        "data": data,
        "budget": section_of(recipe.threats.edge_budget),
        "seed": recipe.seed,
        "threads": recipe.threads,
        "forms": dict(forms),
        "graphs": graphs,
        "here": here,
        "engine_class": work.engine_class if here else None,
    }
    return [_edge_node(threat, needs, config | _own(work, threat, tuple(forms))) for threat in recipe.threats.edge]


def _edge_node(threat: str, needs: tuple[str, ...], config: dict[str, Any]) -> Node:
    chosen = tuple(config.get("mixed", {}).values())
    return make_node(f"{EDGE_PREFIX}{threat}", "threat", f"edge:{threat}", (*needs, *chosen), config, ONNX)


def is_edge(node: str) -> bool:
    """Whether a result of this name is that of a threat."""
    return node.startswith(EDGE_PREFIX)


def in_one_process(train: FitConfig) -> FitConfig:
    """As [train] says, without a launcher: for networks that a step trains by itself."""
    return train.model_copy(update={"devices": 1})


def scan_section(config: ThreatsConfig) -> dict[str, Any]:
    """What decides the scans, which threats of small devices do not."""
    return {key: value for key, value in section_of(config).items() if key not in ("edge", "edge_budget")}


def _own(work: Work, threat: str, forms: tuple[str, ...]) -> dict[str, Any]:
    recipe = work.recipe
    if threat == "calibration":
        return {
            "quantize": section_of(recipe.quantize),
            "parity": section_of(recipe.parity),
            "runtime": work.profile.engine.runtime,
            "activations": work.profile.engine.int8_activations,
            "weight_bits": work.weight_bits,
            "mixed": {f"{form}-int8": f"mixed {form}" for form in forms if recipe.quantize.mixed is not None},
        }
    if threat == "membership" and recipe.train is not None and recipe.threats.edge_budget.shadows:
        return {
            "train": section_of(recipe.train),
            "objective": section_of(recipe.objective),
            "placement": placement_here(in_one_process(recipe.train), work.host.gpus),
        }
    return {}
