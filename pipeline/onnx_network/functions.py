"""Operators that are a function of their inputs, value by value or over some dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pipeline.onnx_network.site import Built, Site, UnfitError, apply, apply_first

_Function = Callable[..., Any]

VALUE_BY_VALUE: dict[str, _Function] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "And": torch.logical_and,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Div": torch.div,
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Log": torch.log,
    "Mish": functional.mish,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "Pow": torch.pow,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Softsign": functional.softsign,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Tan": torch.tan,
    "Where": torch.where,
    "Xor": torch.logical_xor,
}
_REDUCTIONS: dict[str, _Function] = {
    "ReduceMean": torch.mean,
    "ReduceSum": torch.sum,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
    "ReduceL1": partial(torch.linalg.vector_norm, ord=1),
    "ReduceL2": partial(torch.linalg.vector_norm, ord=2),
    "ReduceLogSumExp": torch.logsumexp,
}
_FOLDED: dict[str, _Function] = {"Max": torch.maximum, "Min": torch.minimum, "Sum": torch.add, "Mean": torch.add}
_WHOLE, _TRUTH = {2, 3, 4, 5, 6, 7, 12, 13}, 9


def activation_of(site: Site) -> nn.Module | None:
    """PyTorch's module of an activation; None when the operator is none."""
    slope = partial(site.attribute, "alpha")
    modules: dict[str, Callable[[], nn.Module]] = {
        "Relu": nn.ReLU,
        "Sigmoid": nn.Sigmoid,
        "Tanh": nn.Tanh,
        "HardSwish": nn.Hardswish,
        "Identity": nn.Identity,
        "Selu": nn.SELU,
        "Softplus": nn.Softplus,
        "Elu": lambda: nn.ELU(float(slope(1.0))),
        "Celu": lambda: nn.CELU(float(slope(1.0))),
        "LeakyRelu": lambda: nn.LeakyReLU(float(slope(0.01))),
        "Gelu": lambda: nn.GELU(str(site.attribute("approximate", "none"))),
    }
    return modules[site.node.op]() if site.node.op in modules else None


def build_activation(site: Site) -> Built:
    """As a module of PyTorch."""
    module = activation_of(site)
    assert module is not None
    return Built(module, (site.name(0),))


def build_hard_sigmoid(site: Site) -> Built:
    """PyTorch's form where the numbers are its own."""
    alpha, beta = float(site.attribute("alpha", 0.2)), float(site.attribute("beta", 0.5))
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return Built(nn.Hardsigmoid(), (site.name(0),))
    return apply_first(site, partial(_hard_sigmoid, alpha=alpha, beta=beta))


def _hard_sigmoid(x: torch.Tensor, alpha: float, beta: float) -> torch.Tensor:
    return (alpha * x + beta).clamp(0, 1)


def build_swish(site: Site) -> Built:
    """x times the sigmoid of alpha x."""
    return apply_first(site, partial(_swish, alpha=float(site.attribute("alpha", 1.0))))


def _swish(x: torch.Tensor, alpha: float) -> torch.Tensor:
    return x * torch.sigmoid(alpha * x)


def build_value_by_value(site: Site) -> Built:
    """One function of all inputs."""
    return apply(site, VALUE_BY_VALUE[site.node.op])


def build_folded(site: Site) -> Built:
    """A function of any number of inputs."""
    return apply(site, partial(_fold, function=_FOLDED[site.node.op], mean=site.node.op == "Mean"))


def _fold(*tensors: torch.Tensor, function: _Function, mean: bool) -> torch.Tensor:
    total: torch.Tensor = reduce(function, tensors)
    return total / len(tensors) if mean else total


def build_clip(site: Site) -> Built:
    """Bounds are attributes before opset 11, inputs since."""
    bounds: list[float | None] = []
    for place, name in ((1, "min"), (2, "max")):
        given = site.constant(place)
        value = site.attribute(name, None) if given is None else given.item()
        bounds.append(None if value is None or math.isinf(value) or abs(value) > 3e38 else float(value))
    if bounds == [0, 6]:
        return Built(nn.ReLU6(), (site.name(0),))
    if bounds == [None, None]:
        return Built(nn.Identity(), (site.name(0),))
    return apply_first(site, partial(torch.clamp, min=bounds[0], max=bounds[1]))


def build_dropout(site: Site) -> Built:
    """Nothing in inference; drops again in training."""
    given = site.constant(1)
    return Built(nn.Dropout(float(site.attribute("ratio", 0.5) if given is None else given.item())), (site.name(0),))


def build_cast(site: Site) -> Built:
    """Floats of any width stay 32 bits wide: it is the network that is trained."""
    kind = int(site.attribute("to", 1))
    dtype = torch.bool if kind == _TRUTH else torch.int64 if kind in _WHOLE else torch.float32
    return apply_first(site, partial(torch.Tensor.to, dtype=dtype))


def build_softmax(site: Site) -> Built:
    """Along one dimension since opset 13; along it and all after it before."""
    newer = site.graph.opset >= 13
    axis = site.axis(-1 if newer else 1)
    function = torch.softmax if site.node.op == "Softmax" else torch.log_softmax
    if newer or all(extent.size == 1 and not extent.batch for extent in site.shape()[axis + 1 :]):
        return apply_first(site, partial(function, dim=axis))
    return apply_first(site, partial(_softmax_from, function=function, axis=axis))


def _softmax_from(x: torch.Tensor, function: _Function, axis: int) -> torch.Tensor:
    rest: torch.Tensor = function(x.flatten(axis), dim=axis)
    return rest.reshape(x.shape)


def build_reduction(site: Site) -> Built:
    """Over the dimensions of an attribute, or of an input in newer opsets."""
    axes = site.numbers(1, "axes")
    if not axes:
        if site.attribute("noop_with_empty_axes", 0):
            return Built(nn.Identity(), (site.name(0),))
        axes = list(range(len(site.shape())))
    if any(site.shape()[axis].batch for axis in axes):
        raise UnfitError("it reduces over the batch")
    keep = bool(site.attribute("keepdims", 1))
    return apply_first(site, partial(_REDUCTIONS[site.node.op], dim=tuple(axes), keepdim=keep))


def build_argmax(site: Site) -> Built:
    """Place of the largest value, the first of equal ones."""
    if site.attribute("select_last_index", 0):
        raise UnfitError("it gives the last of equal values")
    return apply_first(site, partial(torch.argmax, dim=site.axis(0), keepdim=bool(site.attribute("keepdims", 1))))


def build_einsum(site: Site) -> Built:
    """Einstein summation."""
    return apply(site, partial(torch.einsum, str(site.attribute("equation", ""))))


REDUCTIONS = frozenset(_REDUCTIONS)
FOLDED = frozenset(_FOLDED)
ACTIVATIONS = (
    "Relu",
    "Sigmoid",
    "Tanh",
    "HardSwish",
    "Identity",
    "Selu",
    "Softplus",
    "Elu",
    "Celu",
    "LeakyRelu",
    "Gelu",
)
