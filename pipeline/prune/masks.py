"""Single weights that become zero: any of them by score, or two of every four as sparse tensor cores want them.

Weights are the kernels and matrices of convolutions, linear layers and attention. Biases, normalizations, embeddings
and position tables stay as they are.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from devices.errors import ModelError, RecipeError
from pipeline.prune.criteria import hessian, l1, lamp, learned, random, taylor
from pipeline.prune.criteria.base import CriterionInputs
from pipeline.prune.criteria.select import require_loss
from pipeline.prune.network import copy_network, first_line, inference

_FOUR = 4
_TAKEN = -1.0
"""Score of a weight that is zero already: no criterion is below, so it goes first and none grows back."""


@dataclass(frozen=True)
class DenseWeight:
    """A tensor that keeps all its weights, and why."""

    tensor: str
    reason: str


@dataclass(frozen=True)
class Masks:
    """Which weights stay."""

    keep: Mapping[str, torch.Tensor]
    """By parameter: true where a weight stays, in the parameter's shape."""
    dense: tuple[DenseWeight, ...]

    @property
    def zeros_share(self) -> float:
        """Share of the masked parameters' weights that go."""
        total = sum(mask.numel() for mask in self.keep.values())
        return 1 - sum(int(mask.sum()) for mask in self.keep.values()) / total if total else 0.0


def mask_weights(
    inputs: CriterionInputs, sparsity: float, criterion: str, scope: str, ignore: Sequence[str] = ()
) -> Masks:
    """Let the share `sparsity` of the weights go that score least, and with them those that are zero already.

    `global`: one order over all layers. `local`: the same share of each layer. The highest of each tensor always stays.
    Tensors that a glob of `ignore` matches are neither masked nor counted. Raises `RecipeError` when the criterion does
    not rank single weights, lacks images or a loss, when the share cannot be reached, or a glob matches no parameter.
    """
    if scope not in ("global", "local") or (criterion == "lamp" and scope != "global"):
        what = f"is '{scope}', which does not hold for single weights by '{criterion}'"
        raise RecipeError("prune.scope", what, "Set it to 'global'")
    weights, dense = _candidates(inputs.network, ignore)
    scores = _score(inputs, criterion, weights)
    if any(not bool(torch.isfinite(values).all()) for values in scores.values()):
        what = f"'{criterion}' gives scores that are not finite"
        raise RecipeError("prune.criterion", what, "Check the network's weights, or use another criterion")
    parts = [list(weights)] if scope == "global" else [[name] for name in weights]
    keep: dict[str, torch.Tensor] = {}
    for names in parts:
        keep |= _keep_highest({name: scores[name] for name in names}, sparsity)
    return Masks({name: keep[name] for name in weights}, dense)


def mask_two_of_four(network: nn.Module, image_NCHW: torch.Tensor, ignore: Sequence[str] = ()) -> Masks:
    """Of every four weights in a row along the inputs, let the two of smaller magnitude go (Mishra et al. 2021).

    TensorRT's sparse tactics ask it of a kernel (K, C, R, S) for every output channel and kernel pixel over four
    consecutive input channels, C being a multiple of four (TensorRT Developer Guide, "Structured Sparsity"), and of a
    matrix product along the dimension that is summed over: the inputs of a linear layer's (outputs, inputs). The layer
    that runs last, which gives the answer, stays dense, as do transposed convolutions and inputs of another number.
    `image_NCHW` is one real image, (1, C, H, W), to see which layer that is. Raises `RecipeError` when no layer is left
    or a glob of `ignore` matches no parameter, `ModelError` when the network does not run.
    """
    weights, dense = _candidates(network, ignore)
    reasons = _unfit_for_four(network, image_NCHW, weights)
    dense = (*dense, *(DenseWeight(name, reason) for name, reason in reasons.items()))
    keep = {name: _two_of_four(weight) for name, weight in weights.items() if name not in reasons}
    if not keep:
        said = "; ".join(f"{item.tensor}: {item.reason}" for item in dense[:_FOUR])
        raise RecipeError("prune.granularity", f"no layer can have 2:4 weights. Dense are {said}", "Use 'weights'")
    return Masks(keep, tuple(sorted(dense, key=lambda item: item.tensor)))


def apply_masks(network: nn.Module, masks: Masks) -> nn.Module:
    """A copy whose masked weights are zero. Raises `ModelError` when a mask does not fit the network."""
    masked = copy_network(network)
    parameters = dict(masked.named_parameters())
    for name, keep in masks.keep.items():
        if name not in parameters or parameters[name].shape != keep.shape:
            what = f"is for '{name}' of shape {tuple(keep.shape)}, which the network lacks"
            raise ModelError("mask", what, "Use the network that it was made for")
        with torch.no_grad():
            parameters[name].masked_fill_(~keep.to(parameters[name].device), 0.0)
    return masked


def _candidates(network: nn.Module, ignore: Sequence[str]) -> tuple[dict[str, torch.Tensor], tuple[DenseWeight, ...]]:
    """Weights that may go, by name; tensors of two dimensions or more that stay, with the reason."""
    parameters = dict(network.named_parameters())
    ignored: dict[str, str] = {}
    for pattern in ignore:
        matched = [name for name in parameters if fnmatch.fnmatchcase(name, pattern)]
        if not matched:
            some = ", ".join(sorted(parameters)[:5])
            raise RecipeError("prune.ignore", f"'{pattern}' matches no parameter", f"There are {some}")
        ignored |= dict.fromkeys(matched, f"the recipe ignores '{pattern}'")
    own = {id(tensor) for module in network.modules() for tensor in _layer_weights(module)}
    weights, dense = {}, []
    for name, parameter in parameters.items():
        if parameter.ndim < 2:
            continue
        reason = ignored.get(name) or (None if id(parameter) in own else "it is no convolution's or linear layer's")
        if reason is None:
            weights[name] = parameter.detach()
        else:
            dense.append(DenseWeight(name, reason))
    return weights, tuple(dense)


def _layer_weights(module: nn.Module) -> list[torch.Tensor]:
    if isinstance(module, (_ConvNd, nn.Linear)):
        return [module.weight]
    if isinstance(module, nn.MultiheadAttention):
        names = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
        return [weight for name in names if (weight := getattr(module, name)) is not None]
    return []


def _score(inputs: CriterionInputs, criterion: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    match criterion:
        # Of single weights both are the magnitude.
        case "l1" | "l2":
            scores = {name: l1.score_weights(weight) for name, weight in weights.items()}
        case "lamp":
            scores = {name: lamp.score_weights(weight) for name, weight in weights.items()}
        case "taylor":
            scores = taylor.score_weights(inputs, require_loss(criterion, inputs))
        case "hessian":
            scores = hessian.score_weights(inputs, require_loss(criterion, inputs))
        case "learned":
            scores = learned.score_weights(inputs, weights)
        case "random":
            scores = {name: random.score_weights(name, weight, inputs.seed) for name, weight in weights.items()}
        case _:
            what = f"'{criterion}' does not rank single weights"
            raise RecipeError("prune.criterion", what, "Use 'l1', 'lamp', 'taylor', 'hessian', 'learned' or 'random'")
    return {name: scores[name].cpu().masked_fill(weight.cpu() == 0, _TAKEN) for name, weight in weights.items()}


def _keep_highest(scores: dict[str, torch.Tensor], sparsity: float) -> dict[str, torch.Tensor]:
    """Where all but the lowest `sparsity` stay; of equal ones the first go."""
    total = sum(values.numel() for values in scores.values())
    count = round(sparsity * total)
    if count > total - len(scores):
        of = f"'{next(iter(scores))}'" if len(scores) == 1 else f"each of {len(scores)} tensors"
        raise RecipeError(
            "prune.target_sparsity",
            f"{sparsity:g} cannot be met: one weight of {of} stays, so {total - len(scores)} of {total} may go",
            f"Set it to {(total - len(scores)) / total:g} or less",
        )
    flat = torch.cat([values.flatten().double() for values in scores.values()])
    starts = [0]
    for values in scores.values():
        start, end = starts[-1], starts[-1] + values.numel()
        flat[start + int(flat[start:end].argmax())] = torch.inf
        starts.append(end)
    keep = torch.ones(total, dtype=torch.bool)
    if count:
        threshold = flat.kthvalue(count).values
        keep &= flat >= threshold
        equal = torch.nonzero(flat == threshold).flatten()
        keep[equal[: count - int((~keep).sum())]] = False
    zeros = flat == _TAKEN
    keep &= ~zeros
    return {
        name: keep[start : start + values.numel()].reshape(values.shape)
        for start, (name, values) in zip(starts, scores.items(), strict=False)
    }


def _two_of_four(weight: torch.Tensor) -> torch.Tensor:
    """Where the two of largest magnitude among four in a row along dimension 1 stay; of equal ones the first."""
    last = weight.abs().movedim(1, -1)
    fours = last.reshape(*last.shape[:-1], -1, _FOUR)
    order = fours.argsort(dim=-1, descending=True, stable=True)
    keep = torch.zeros_like(fours, dtype=torch.bool).scatter_(-1, order[..., :2], True)
    return keep.flatten(-2).movedim(-1, 1).contiguous()


def _unfit_for_four(network: nn.Module, image_NCHW: torch.Tensor, weights: dict[str, torch.Tensor]) -> dict[str, str]:
    """Why a weight stays dense, by name."""
    transposed = {id(m.weight) for m in network.modules() if isinstance(m, _ConvNd) and m.transposed}
    named = dict(network.named_parameters())
    last = _last_weight(network, image_NCHW)
    reasons = {}
    for name, weight in weights.items():
        inputs = weight.shape[1]
        if id(named[name]) in transposed:
            reasons[name] = "it is a transposed convolution's"
        elif inputs == 1 and weight.ndim > 2:
            reasons[name] = "it is a depthwise convolution's"
        elif inputs % _FOUR:
            reasons[name] = f"its {inputs} inputs are no multiple of four"
        elif id(named[name]) == last:
            reasons[name] = "it is the layer that answers"
    return reasons


def _last_weight(network: nn.Module, image_NCHW: torch.Tensor) -> int | None:
    """Identity of the weight of the convolution or linear layer that ran last."""
    ran: list[int] = []
    layers = [module for module in network.modules() if isinstance(module, (_ConvNd, nn.Linear))]
    handles = [layer.register_forward_hook(lambda module, *_: ran.append(id(module.weight))) for layer in layers]
    try:
        with inference(network):
            network(image_NCHW.clone())
    # A user's network may raise anything.
    except Exception as cause:
        raise ModelError("model", f"does not run: {first_line(cause)}", "Match model.args to the data") from cause
    finally:
        for handle in handles:
            handle.remove()
    return ran[-1] if ran else None
