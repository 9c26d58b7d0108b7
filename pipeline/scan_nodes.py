"""The part of the chain that looks for signs of a backdoor: a scan of every network, and of the last one in INT8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.edge_nodes import scan_section
from pipeline.node import TORCH, Node, make_node
from pipeline.recipe import section_of
from pipeline.work import Work

SCAN_PREFIX = "scan "
REFERENCES = "scan references"
INT8_SUFFIX = " int8"


def scan_nodes(work: Work, networks: Sequence[str], model: dict[str, Any], data: dict[str, Any]) -> list[Node]:
    """A scan for each network of these names, in the order in which one is made of the other.

    `model` and `data` are fingerprints. Nothing where the recipe scans for nothing.
    """
    recipe = work.recipe
    if not recipe.threats.scan or not networks:
        return []
    libraries: tuple[str, ...] = (*TORCH, "scipy", "safetensors")
    if recipe.model.onnx is not None:
        libraries = (*libraries, "onnx", "onnxruntime")
    shared = {"model": model, "data": data, "seed": recipe.seed, "threads": recipe.threads}
    shared |= {"threats": scan_section(recipe.threats)}
    nodes = []
    known: tuple[str, ...] = ()
    if recipe.threats.references:
        config = shared | {"train": section_of(recipe.train) if recipe.train else None}
        nodes.append(make_node(REFERENCES, "scan", "scan:references", (), config, libraries))
        known = (REFERENCES,)
    before: str | None = None
    for network in networks:
        needs = (network, *((before,) if before else ()), *known)
        config = shared | {"network": network, "before": before, "weight_bits": None}
        nodes.append(make_node(SCAN_PREFIX + network, "scan", "scan:scan", needs, config, libraries))
        before = network
    if recipe.quantize.precision == "int8" and before is not None:
        config = shared | {"network": before, "before": before, "weight_bits": work.weight_bits}
        config |= {"calibration_samples": recipe.quantize.calibration_samples}
        name = SCAN_PREFIX + before + INT8_SUFFIX
        nodes.append(make_node(name, "scan", "scan:scan", (before, *known), config, libraries))
    return nodes


def is_scan(node: str) -> bool:
    """Whether a result of this name holds findings."""
    return node.startswith(SCAN_PREFIX) and node != REFERENCES
