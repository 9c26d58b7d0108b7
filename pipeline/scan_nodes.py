"""The part of the chain that looks for signs of a backdoor: a scan of every network, and of the INT8 graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.edge_nodes import in_one_process, scan_section
from pipeline.network_nodes import accelerator_here, placement_here
from pipeline.node import ONNX, TORCH, Node, make_node
from pipeline.recipe import FitConfig, section_of
from pipeline.work import Work

SCAN_PREFIX = "scan "
REFERENCES = "scan references"
INT8_SUFFIX = " int8"
_REFERENCE_FIT = FitConfig(epochs=20, batch_size=32)


def scan_nodes(work: Work, networks: Sequence[str], model: dict[str, Any], data: dict[str, Any]) -> list[Node]:
    """A scan for each network of these names, in the order in which one is made of the other.

    `model` and `data` are fingerprints. Nothing where the recipe scans for nothing.
    """
    if not work.recipe.threats.scan or not networks:
        return []
    shared, libraries = _shared(work, model, data)
    nodes = []
    if work.recipe.threats.references:
        train = work.recipe.train
        config = shared | {
            "train": section_of(train) if train else None,
            "placement": placement_here(reference_fit(train), work.host.gpus),
        }
        nodes.append(make_node(REFERENCES, "scan", "scan:references", (), config, libraries))
    before: str | None = None
    for network in networks:
        needs = (network, *((before,) if before else ()), *_known(work))
        config = shared | {"network": network, "before": before, "graph": None}
        nodes.append(make_node(SCAN_PREFIX + network, "scan", "scan:scan", needs, config, libraries))
        before = network
    return nodes


def int8_scan_nodes(work: Work, form: str, network: str, model: dict[str, Any], data: dict[str, Any]) -> list[Node]:
    """The scan of a form's quantized graph, made of the network of this name, which it is compared with.

    Nothing where the recipe scans for nothing, or does not quantize to INT8.
    """
    recipe = work.recipe
    if not recipe.threats.scan or recipe.quantize.precision != "int8":
        return []
    shared, libraries = _shared(work, model, data)
    graph = f"quantized {form}"
    config = shared | {"network": network, "before": network, "graph": graph, "weight_bits": work.weight_bits}
    config |= {"calibration_samples": recipe.quantize.calibration_samples}
    needs = (network, graph, *_known(work))
    libraries = tuple(dict.fromkeys((*libraries, *ONNX)))
    return [make_node(SCAN_PREFIX + network + INT8_SUFFIX, "scan", "scan:scan", needs, config, libraries)]


def reference_fit(train: FitConfig | None) -> FitConfig:
    """How reference networks train, in the step's own process; for how long, the step decides."""
    return in_one_process(train) if train else _REFERENCE_FIT


def is_scan(node: str) -> bool:
    """Whether a result of this name holds findings."""
    return node.startswith(SCAN_PREFIX) and node != REFERENCES


def _shared(work: Work, model: dict[str, Any], data: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What decides every scan, and the libraries of each."""
    recipe = work.recipe
    shared = {"model": model, "data": data, "seed": recipe.seed, "threads": recipe.threads}
    libraries: tuple[str, ...] = (*TORCH, "scipy", "safetensors")
    if recipe.model.onnx is not None:
        libraries = (*libraries, "onnx", "onnxruntime")
    # A scan looks where there is a GPU.
    accelerator = accelerator_here("auto", work.host.gpus)
    return shared | {"threats": scan_section(recipe.threats), "accelerator": accelerator}, libraries


def _known(work: Work) -> tuple[str, ...]:
    return (REFERENCES,) if work.recipe.threats.references else ()
