"""The copy of a network that attacks run: the same answers for less work, since they ask thousands of times."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from devices.errors import ModelError
from pipeline.prune.network import copy_network, one_answer

# Of the largest output: how far single precision may carry two orders of the same sums apart.
_TOLERANCE = 1e-4


def attacked_form(network: nn.Module, images: torch.Tensor) -> nn.Module:
    """A copy of a network in evaluation mode that answers alike, or the network itself.

    Alike means answers and gradients within 1e-4 of the largest. Batch normalization behind a convolution is folded
    into it (Jacob et al. 2018, section 3.2), convolutions keep their channels last, and no parameter asks for a
    gradient. What changes more on these images (N, C, H, W), or cannot be copied or run so, is left out.
    """
    try:
        plain = copy_network(network).requires_grad_(False)
    except ModelError:
        return network
    answered = _answers(plain, images)
    if answered is None:
        return network
    folded = _folded(plain, images)
    form = folded if _alike(_answers(folded, images), answered) else plain
    if not any(type(module) is nn.Conv2d for module in form.modules()):
        return form
    last = copy_network(form).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return last if _alike(_answers(last, images), answered) else form


def _folded(network: nn.Module, images: torch.Tensor) -> nn.Module:
    """A copy in which each batch normalization that took over a convolution's very output is part of the convolution.

    That output may go elsewhere too; then the copy answers differently, and whoever asked for it sees so.
    """
    folded = copy_network(network)
    made: dict[int, nn.Conv2d] = {}
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    # Outputs are kept, so that no two of them have one address.
    kept: list[Any] = []

    def convolved(module: nn.Module, _: Any, output: Any) -> None:
        assert isinstance(module, nn.Conv2d)
        made[id(output)] = module
        kept.append(output)

    def normalized(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        if inputs and id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])], module))

    # Of exactly these classes: others, such as masked ones, compute their weights anew.
    hooks = [module.register_forward_hook(convolved) for module in folded.modules() if type(module) is nn.Conv2d] + [
        module.register_forward_pre_hook(normalized) for module in folded.modules() if type(module) is nn.BatchNorm2d
    ]
    with torch.no_grad():
        folded(images.clone())
    for hook in hooks:
        hook.remove()
    for convolution, normalization in pairs:
        if normalization.training or normalization.running_mean is None:
            continue
        fused = fuse_conv_bn_eval(convolution, normalization)
        convolution.weight, convolution.bias = fused.weight, fused.bias
        _replace(folded, normalization, nn.Identity())
    return folded.requires_grad_(False)


def _replace(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for module in network.modules():
        for name, child in list(module.named_children()):
            if child is old:
                setattr(module, name, new)


def _answers(network: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, ...] | None:
    """Answers and gradients on these images and on one of them, as attacks ask for both; None where that fails."""
    try:
        found = []
        for batch in (images, images[:1]):
            asked = batch.detach().requires_grad_(True)
            answered = one_answer(network(asked.clone()))
            if answered is None:
                return None
            # Of the squares, because a sum may be the same whatever the image.
            found += [answered.detach(), torch.autograd.grad(answered.square().sum(), asked)[0]]
    # A user's module may raise anything; what it says is shown where it is attacked as it is.
    except Exception:  # noqa: BLE001
        return None
    return tuple(found)


def _alike(found: tuple[torch.Tensor, ...] | None, expected: tuple[torch.Tensor, ...]) -> bool:
    """Whether all agree, each within the tolerance of its largest value."""
    if found is None or [part.shape for part in found] != [part.shape for part in expected]:
        return False
    return all(
        bool((part - wanted).abs().max() <= _TOLERANCE * wanted.abs().max())
        for part, wanted in zip(found, expected, strict=True)
    )
