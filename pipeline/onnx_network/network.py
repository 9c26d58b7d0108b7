"""The network: modules in a tree, called in the order of the file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from devices.errors import ModelError
from pipeline.onnx_network.graph import Graph, Node
from pipeline.onnx_network.operators import BUILDERS, Builder
from pipeline.onnx_network.site import Built, Site, UnfitError, Weights

_WITHOUT_TORCH = "Remove [train], [prune] and [finetune]: it can be quantized, built and measured as it is"
_WEIGHT_ENDS = (".weight", ".bias")


@dataclass(frozen=True)
class Step:
    """One call of a module."""

    module: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    done: tuple[str, ...]
    """Values that nothing reads after it."""


class OnnxNetwork(nn.Module):
    """Takes images (N, C, H, W); returns the file's output, or a tuple of them in its order."""

    def __init__(self, image: str, outputs: Sequence[str]) -> None:
        super().__init__()
        self._image = image
        self._outputs = tuple(outputs)
        self._steps: tuple[Step, ...] = ()

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Every step once."""
        values = {self._image: x}
        for step in self._steps:
            # By name, because pruning may put another module in its place.
            result = self.get_submodule(step.module)(*(values[name] for name in step.inputs))
            results = result if isinstance(result, (tuple, list)) else (result,)
            values.update(zip(step.outputs, results, strict=False))
            for name in step.done:
                del values[name]
        found = tuple(values[name] for name in self._outputs)
        return found[0] if len(found) == 1 else found


def build_network(graph: Graph, where: str, builders: Mapping[str, Builder] = BUILDERS) -> OnnxNetwork:
    """Modules of every node, weights loaded, in evaluation. Raises `ModelError` naming the operator that has none."""
    for name in graph.outputs:
        if name not in graph.shapes or name == graph.image:
            raise ModelError(where, f"its output '{name}' does not depend on the image", "Remove it from the file")
    network, weights = OnnxNetwork(graph.image, graph.outputs), Weights(graph)
    counts: dict[str, int] = {}
    shared: dict[tuple[object, ...], str] = {}
    calls: list[tuple[str, tuple[str, ...], Node]] = []
    for node in graph.nodes:
        built = _build(Site(graph, node, weights), where, builders)
        key = _identity(node, graph)
        if key is None or key not in shared:
            counts[node.op] = counts.get(node.op, -1) + 1
            name = _place(network, _path(node, graph) or [f"{_plain(node.op.lower())}_{counts[node.op]}"], built.module)
            if key is not None:
                shared[key] = name
        calls.append((name if key is None else shared[key], built.inputs, node))
    network._steps = _steps(calls, graph)
    return network.eval()


def _build(site: Site, where: str, builders: Mapping[str, Builder]) -> Built:
    node = site.node
    builder = builders.get(node.op)
    called = f"operator {node.op} of node '{node.name or node.outputs[0]}'"
    if builder is None:
        raise ModelError(where, f"{called} has no torch form here", _WITHOUT_TORCH)
    try:
        return builder(site)
    except UnfitError as cause:
        raise ModelError(where, f"{called} has no torch form here: {cause}", _WITHOUT_TORCH) from cause


def _identity(node: Node, graph: Graph) -> tuple[object, ...] | None:
    """Equal for two calls of one layer with weights."""
    kept = tuple(name for name in node.inputs if name in graph.constants)
    if not graph.learned.intersection(kept) or node.op not in ("Conv", "Gemm", "MatMul", "BatchNormalization"):
        return None
    return node.op, kept, repr(sorted(node.attributes.items()))


def _path(node: Node, graph: Graph) -> list[str] | None:
    """Where a layer stood in the network that was exported: by the names of its weights, or of its node."""
    kept = [name for name in node.inputs if name in graph.learned]
    for name in kept:
        for end in _WEIGHT_ENDS:
            if name.endswith(end) and re.fullmatch(r"[A-Za-z0-9_.]+", name) and all(name.split(".")):
                return name.removesuffix(end).split(".")
    if not kept or not node.name.startswith("/"):
        return None
    path = ""
    for part in node.name.split("/")[1:-1]:
        # An item of a sequence repeats the name of the sequence.
        path = part if part.startswith(f"{path}.") else f"{path}.{part}".lstrip(".")
    return [_plain(part) for part in path.split(".") if part] or None


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


def _place(network: nn.Module, path: list[str], module: nn.Module) -> str:
    """Put a module at a path, beside what is there already; returns its name."""
    parent, names = network, []
    for part in path[:-1]:
        free = _free(parent, part, inner=True)
        if free not in parent._modules:
            parent.add_module(free, nn.Module())
        names.append(free)
        child = parent._modules[free]
        assert child is not None
        parent = child
    names.append(_free(parent, path[-1], inner=False))
    parent.add_module(names[-1], module)
    return ".".join(names)


def _free(parent: nn.Module, part: str, inner: bool) -> str:
    """The name itself, or with underscores where a layer, a parameter or a method has it."""
    while not (inner and type(parent._modules.get(part)) is nn.Module) and hasattr(parent, part):
        part += "_"
    return part


def _steps(calls: list[tuple[str, tuple[str, ...], Node]], graph: Graph) -> tuple[Step, ...]:
    last: dict[str, int] = {}
    for index, (_, inputs, node) in enumerate(calls):
        for name in (*inputs, *node.outputs):
            last[name] = index
    steps = []
    for index, (module, inputs, node) in enumerate(calls):
        outputs = tuple(name for name in node.outputs if name)
        done = {name for name in (*inputs, *outputs) if last[name] == index} - set(graph.outputs)
        steps.append(Step(module, inputs, outputs, tuple(sorted(done))))
    return tuple(steps)
