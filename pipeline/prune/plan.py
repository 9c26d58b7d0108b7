"""A pruning plan: which indices of which parameters stay. JSON, and replayed on the factory's network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from devices.errors import ModelError

_FORMAT = "espalier-plan/1"


@dataclass(frozen=True)
class Cut:
    """The indices that stay of one dimension of one parameter or buffer."""

    tensor: str
    dim: int
    size: int
    """Length of the dimension before."""
    keep: tuple[int, ...]


@dataclass(frozen=True)
class PruningPlan:
    """Every cut; the order does not matter."""

    cuts: tuple[Cut, ...]

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        rows = [{"tensor": c.tensor, "dim": c.dim, "size": c.size, "keep": list(c.keep)} for c in self.cuts]
        return {"format": _FORMAT, "cuts": sorted(rows, key=lambda row: (str(row["tensor"]), row["dim"]))}

    @staticmethod
    def from_dict(raw: Any, where: str) -> PruningPlan:
        """Read back; raises `ModelError` on anything malformed."""
        if not isinstance(raw, dict) or raw.get("format") != _FORMAT or not isinstance(raw.get("cuts"), list):
            raise ModelError(where, f"is not a pruning plan of format {_FORMAT!r}")
        return PruningPlan(tuple(_read_cut(row, where) for row in raw["cuts"]))


def _read_cut(row: Any, where: str) -> Cut:
    whole = isinstance(row, dict) and type(row.get("dim")) is int and type(row.get("size")) is int
    if not whole or not isinstance(row.get("tensor"), str) or not isinstance(row.get("keep"), list):
        raise ModelError(where, f"has a malformed cut {row!r:.80}")
    keep, size = row["keep"], row["size"]
    ascending = all(type(index) is int for index in keep) and keep == sorted(set(keep))
    if not keep or not ascending or keep[0] < 0 or keep[-1] >= size or not 0 <= row["dim"] < 8:
        raise ModelError(where, f"has a cut of '{row['tensor']}' whose indices do not fit its size {size}")
    return Cut(row["tensor"], row["dim"], size, tuple(keep))


def apply_plan(network: nn.Module, plan: PruningPlan) -> None:
    """Shrink the network in place. Raises `ModelError` at the first cut that does not fit it."""
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    for cut in plan.cuts:
        if cut.tensor not in tensors:
            raise ModelError(
                "pruning plan", f"cuts '{cut.tensor}', which the network lacks", "Use the plan's own factory"
            )
        shape = tuple(tensors[cut.tensor].shape)
        if cut.dim >= len(shape) or shape[cut.dim] != cut.size:
            raise ModelError(
                "pruning plan",
                f"dimension {cut.dim} of '{cut.tensor}' should be {cut.size}, the network has {shape}",
                "Use the plan's own factory and args",
            )
    by_tensor: dict[str, list[Cut]] = {}
    for cut in plan.cuts:
        by_tensor.setdefault(cut.tensor, []).append(cut)
    # Modules that share a parameter must share the smaller one too.
    replaced: dict[int, nn.Parameter] = {}
    for module_name, module in network.named_modules():
        prefix = f"{module_name}." if module_name else ""
        for name, parameter in list(module._parameters.items()):
            cuts = by_tensor.get(_canonical(network, prefix + name, parameter), [])
            if parameter is not None and cuts:
                if id(parameter) not in replaced:
                    small = nn.Parameter(_cut(parameter.data, cuts), requires_grad=parameter.requires_grad)
                    replaced[id(parameter)] = small
                module._parameters[name] = replaced[id(parameter)]
        for name, buffer in list(module._buffers.items()):
            cuts = by_tensor.get(prefix + name, [])
            if buffer is not None and cuts:
                module._buffers[name] = _cut(buffer, cuts)
        _match_attributes(module)


def _canonical(network: nn.Module, name: str, parameter: nn.Parameter | None) -> str:
    """The first name of a parameter: the one that `named_parameters` gives, and that plans use."""
    return next((first for first, other in network.named_parameters() if other is parameter), name)


def _cut(tensor: torch.Tensor, cuts: list[Cut]) -> torch.Tensor:
    for cut in cuts:
        tensor = tensor.index_select(cut.dim, torch.tensor(cut.keep))
    return tensor.contiguous()


def _match_attributes(module: nn.Module) -> None:
    """Set the widths that a module keeps besides its tensors."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.conv._ConvNd) and not module.transposed:
        if module.groups == module.in_channels and module.groups > 1:
            multiplier = module.out_channels // module.in_channels
            module.groups = module.in_channels = module.weight.shape[0] // multiplier
        else:
            module.in_channels = module.weight.shape[1] * module.groups
        module.out_channels = module.weight.shape[0]
    elif isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is not None:
        module.num_features = module.weight.shape[0]
    elif isinstance(module, nn.LayerNorm) and module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)
