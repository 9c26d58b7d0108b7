"""A pruning plan: which indices of which parameters stay. JSON, and replayed on the factory's network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from devices.errors import ModelError

_FORMAT = "espalier-plan/1"
_MAKE_AGAIN = "Prune again"


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
            raise ModelError(where, f"is not a pruning plan of format {_FORMAT!r}", _MAKE_AGAIN)
        cuts = tuple(_read_cut(row, where) for row in raw["cuts"])
        seen: set[tuple[str, int]] = set()
        for cut in cuts:
            if (cut.tensor, cut.dim) in seen:
                raise ModelError(where, f"cuts dimension {cut.dim} of '{cut.tensor}' twice", _MAKE_AGAIN)
            seen.add((cut.tensor, cut.dim))
        return PruningPlan(cuts)


def _read_cut(row: Any, where: str) -> Cut:
    whole = isinstance(row, dict) and type(row.get("dim")) is int and type(row.get("size")) is int
    if not whole or not isinstance(row.get("tensor"), str) or not isinstance(row.get("keep"), list):
        raise ModelError(where, f"has a malformed cut {row!r:.80}", _MAKE_AGAIN)
    keep, size = row["keep"], row["size"]
    ascending = all(type(index) is int for index in keep) and keep == sorted(set(keep))
    if not keep or not ascending or keep[0] < 0 or keep[-1] >= size or not 0 <= row["dim"] < 8:
        what = f"has a cut of '{row['tensor']}' whose indices do not fit its size {size}"
        raise ModelError(where, what, _MAKE_AGAIN)
    return Cut(row["tensor"], row["dim"], size, tuple(keep))


def apply_plan(network: nn.Module, plan: PruningPlan) -> None:
    """Shrink the network in place. Raises `ModelError` at the first cut that does not fit it; nothing is cut then."""
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    by_tensor: dict[int, list[Cut]] = {}
    for cut in plan.cuts:
        _check_fits(cut, tensors.get(cut.tensor))
        by_tensor.setdefault(id(tensors[cut.tensor]), []).append(cut)
    # Modules that share a tensor must share the smaller one too.
    smaller = {
        id(tensor): _cut(tensor, by_tensor[id(tensor)]) for tensor in tensors.values() if id(tensor) in by_tensor
    }
    for module in network.modules():
        # Plain dictionaries, because a module's own __setattr__ may do more.
        tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for own in tables:
            for name, tensor in own.items():
                if tensor is not None and id(tensor) in smaller:
                    own[name] = smaller[id(tensor)]
        _match_attributes(module)


def _check_fits(cut: Cut, tensor: torch.Tensor | None) -> None:
    if tensor is None:
        raise ModelError("pruning plan", f"cuts '{cut.tensor}', which the network lacks", "Use the plan's own factory")
    shape = tuple(tensor.shape)
    if cut.dim >= len(shape) or shape[cut.dim] != cut.size:
        raise ModelError(
            "pruning plan",
            f"dimension {cut.dim} of '{cut.tensor}' should be {cut.size}, the network has {shape}",
            "Use the plan's own factory and args",
        )


def _cut(tensor: torch.Tensor, cuts: list[Cut]) -> torch.Tensor:
    small = tensor.detach()
    for cut in cuts:
        small = small.index_select(cut.dim, torch.tensor(cut.keep))
    small = small.contiguous()
    return nn.Parameter(small, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else small


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
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        kept = module.weight if module.weight is not None else module.running_mean
        module.num_features = module.num_features if kept is None else kept.shape[0]
    elif isinstance(module, nn.LayerNorm) and module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)
