"""A pruning plan done to a network: blocks skipped, tensors cut, numbers set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from devices.errors import ModelError
from pipeline.prune.blocks import require_blocks, skip_blocks
from pipeline.prune.plan import Cut, Number, PruningPlan


def apply_plan(network: nn.Module, plan: PruningPlan) -> None:
    """Shrink the network in place. Raises `ModelError` at the first part that does not fit it; nothing is done then."""
    require_blocks(network, plan.blocks)
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    modules = dict(network.named_modules())
    by_tensor: dict[int, list[Cut]] = {}
    for cut in plan.cuts:
        _check_fits(cut, tensors.get(cut.tensor))
        by_tensor.setdefault(id(tensors[cut.tensor]), []).append(cut)
    for number in plan.numbers:
        _check_number(number, modules.get(number.module))
    # Modules that share a tensor must share the smaller one too.
    smaller = {
        id(tensor): _cut(tensor, by_tensor[id(tensor)]) for tensor in tensors.values() if id(tensor) in by_tensor
    }
    for number in plan.numbers:
        modules[number.module].__dict__[number.attribute] = number.after
    replace_tensors(network, smaller)
    for module in network.modules():
        _match_attributes(module)
    # Last, because a block may have been cut before it was skipped.
    skip_blocks(network, plan.blocks)


def replace_tensors(network: nn.Module, others: Mapping[int, torch.Tensor]) -> None:
    """Put other tensors in the place of parameters and buffers, by the id of the one that goes."""
    for module in network.modules():
        # Plain dictionaries, because a module's own __setattr__ may do more.
        tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for own in tables:
            for name, tensor in own.items():
                if tensor is not None and id(tensor) in others:
                    own[name] = others[id(tensor)]


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


def _check_number(number: Number, module: nn.Module | None) -> None:
    if module is None:
        what = f"sets a number of '{number.module}', which the network lacks"
        raise ModelError("pruning plan", what, "Use the plan's own factory")
    found = module.__dict__.get(number.attribute)
    if type(found) is not int or found != number.before:
        what = f"'{number.module}.{number.attribute}' should be {number.before}, the network has {found!r:.40}"
        raise ModelError("pruning plan", what, "Use the plan's own factory and args")


def _cut(tensor: torch.Tensor, cuts: list[Cut]) -> torch.Tensor:
    small = tensor.detach()
    for cut in cuts:
        small = small.index_select(cut.dim, torch.tensor(cut.keep, device=tensor.device))
    small = small.contiguous()
    return nn.Parameter(small, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else small


def _match_attributes(module: nn.Module) -> None:
    """Set the widths that a module keeps besides its tensors."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.conv._ConvNd):
        _match_convolution(module)
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        kept = module.weight if module.weight is not None else module.running_mean
        module.num_features = module.num_features if kept is None else kept.shape[0]
    elif isinstance(module, nn.GroupNorm) and module.weight is not None:
        module.num_channels = module.weight.shape[0]
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)


def _match_convolution(module: nn.modules.conv._ConvNd) -> None:
    wide, each = module.weight.shape[:2]
    depthwise = module.groups == module.in_channels > 1
    if module.transposed:
        module.groups = wide if depthwise else module.groups
        module.in_channels, module.out_channels = wide, each * module.groups
        return
    if depthwise:
        module.groups = wide // (module.out_channels // module.in_channels)
    module.in_channels, module.out_channels = each * module.groups, wide
