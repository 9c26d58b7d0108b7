"""Dry runs: a copy without some units must compute the same operations, each on tensors of the right shape.

Where nothing averages over the units, it must also answer as the whole network does with their weights at zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from pipeline.prune.deadline import OutOfTimeError, deadline
from pipeline.prune.labels import LabelArray
from pipeline.prune.network import copy_structure, first_line, inference, one_answer
from pipeline.prune.replay import apply_plan, replace_tensors
from pipeline.prune.trace import Recorder, Trace, every_operation, moves_only, noise_like, repeated
from pipeline.prune.units import Group, Unit, plan_for

# Of the largest answer: sums of floats in another order.
LAW_TOLERANCE = 1e-3
_GOLDEN = 0.618


@dataclass(frozen=True)
class _Expected:
    name: str
    shape: tuple[int, ...]
    roots: Mapping[int, LabelArray]
    """Of its output, by axis."""
    read: tuple[LabelArray, ...]
    """Of what it multiplies."""


class _Stop(Exception):  # noqa: N818 - enough was seen
    pass


class Prover:
    """Runs copies of one network without some units."""

    def __init__(self, network: nn.Module, trace: Trace, image_NCHW: torch.Tensor, limit_s: float) -> None:
        self._network = network
        self._shape = trace.shape
        self._limit_s = limit_s
        self._images = repeated(image_NCHW)
        self._images[1:] = noise_like(image_NCHW)[1:]
        self._labels = len(trace.sets)
        cache: dict[int, LabelArray] = {}

        def roots(labels: LabelArray) -> LabelArray:
            if id(labels) not in cache:
                cache[id(labels)] = trace.sets.roots(labels)
            return cache[id(labels)]

        self._expected = [
            _Expected(
                item.name,
                item.shape,
                {axis: roots(labels) for axis, labels in enumerate(item.dims) if labels is not None},
                tuple(roots(labels) for term in item.macs for labels in term.dims),
            )
            for item in trace.operations
            if not moves_only(item.name)
        ]

    def misfit(self, units: Sequence[Unit]) -> str | None:
        """Why the network cannot do without these units, as far as their last operation, or None."""
        answer = self._without(units, whole=False, products=False)
        return answer if isinstance(answer, str) else None

    def together(self, groups: Sequence[Group]) -> str | None:
        """Why these groups cannot shrink, each to a share of its own, or None."""
        shares = {group.name: 0.3 + 0.4 * ((number + 1) * _GOLDEN % 1) for number, group in enumerate(groups)}
        everything = [unit for group in groups for unit in _spread(group, shares[group.name])]
        answer = self._without(everything)
        if not isinstance(answer, torch.Tensor):
            return answer
        exact = [unit for group in groups if group.exact for unit in _spread(group, shares[group.name])]
        rest = [unit for group in groups if not group.exact for unit in _spread(group, shares[group.name])]
        return self._unlawful(exact, rest, answer) if exact else None

    def _without(self, units: Sequence[Unit], whole: bool = True, products: bool = True) -> torch.Tensor | str | None:
        """The answer, or what is wrong. Unless `whole`, None as soon as nothing more depends on these units."""
        trial = copy_structure(self._network)
        stays = np.ones(self._labels, dtype=np.int64)
        stays[[unit.label for unit in units]] = 0
        checker = _Checker(self._expected, stays, None if whole else self._last(stays), products)
        answer = self._answer(trial, units, checker)
        if checker.strayed and not products:
            # What stood in for a product may lie otherwise in memory, and then PyTorch takes other operations.
            return self._without(units, whole)
        if checker.enough:
            return None
        return checker.wrong() or (answer if isinstance(answer, str) else checker.missing() or answer)

    def _answer(self, trial: nn.Module, units: Sequence[Unit], checker: _Checker | None) -> torch.Tensor | str:
        """What the network answers when these units are cut out of it, or why it does not."""
        try:
            with deadline(self._limit_s) as end, inference(trial), every_operation():
                apply_plan(trial, plan_for(self._network, units))
                if checker is None:
                    output = trial(self._images.clone())
                else:
                    checker.end = end
                    with checker:
                        output = trial(self._images.clone())
        except OutOfTimeError:
            return f"the network takes more than {self._limit_s:g} s without it"
        # A user's network may raise anything.
        except Exception as cause:  # noqa: BLE001
            return f"the network does not run without it: {first_line(cause)}"
        answer = one_answer(output)
        if answer is None or tuple(answer.shape) != self._shape:
            return "the network's output changes its shape without it"
        return answer

    def _last(self, stays: LabelArray) -> int:
        """How many operations there are up to the last that reads what does not stay."""
        last = 0
        for number, item in enumerate(self._expected, 1):
            if any(not stays[roots].all() for roots in (*item.roots.values(), *item.read)):
                # The next one: sums read what their results no longer have.
                last = number + 1
        return min(last, len(self._expected)) or len(self._expected)

    def _unlawful(self, exact: Sequence[Unit], rest: Sequence[Unit], pruned: torch.Tensor) -> str | None:
        """Why removing some units is not zeroing them where the rest is gone, or None."""
        zeroed = copy_structure(self._network)
        _zero(zeroed, exact)
        answer = self._answer(zeroed, rest, None)
        if isinstance(answer, str):
            return answer
        scale = float(answer.abs().max()) if answer.numel() else 0.0
        if torch.allclose(pruned, answer, rtol=0, atol=LAW_TOLERANCE * scale + 1e-6, equal_nan=True):
            return None
        return "the network answers otherwise without it than with zeros in its place"


class _Checker(Recorder):  # type: ignore[no-untyped-call]
    """Compares operations with those of the whole network."""

    def __init__(self, expected: Sequence[_Expected], stays: LabelArray, last: int | None, products: bool) -> None:
        """`last`: after so many operations it has seen enough. Without `products`, shapes alone are computed."""
        super().__init__(products=products)
        self.enough = False
        self.strayed = False
        """It met another operation than was expected."""
        self._last = len(expected) if last is None else last
        self._expected = expected
        self._stays = stays
        self._seen = 0
        self._wrong: str | None = None

    def note(self, operation: str, shape: tuple[int, ...]) -> None:
        """Raises at the first that differs."""
        if moves_only(operation):
            return
        if self._seen == len(self._expected) or self._expected[self._seen].name != operation:
            self.strayed = self._wrong is None
            self._wrong = self._wrong or f"the network computes something else without it: '{operation}'"
            raise _Stop(self._wrong)
        item = self._expected[self._seen]
        self._seen += 1
        right = tuple(
            int(self._stays[item.roots[axis]].sum()) if axis in item.roots else size
            for axis, size in enumerate(item.shape)
        )
        if shape != right:
            self._wrong = self._wrong or f"operation '{operation}' has shape {shape} without it where {right} is right"
            raise _Stop(self._wrong)
        if self._seen == self._last < len(self._expected):
            self.enough = self._wrong is None
            raise _Stop

    def wrong(self) -> str | None:
        """What differed, also where the network went on."""
        return self._wrong

    def missing(self) -> str | None:
        """What did not run."""
        if self._seen < len(self._expected):
            return f"the network leaves out '{self._expected[self._seen].name}' without it"
        return None


def _spread(group: Group, share: float) -> list[Unit]:
    """About this share of a group's units, from all over it; one at least, never all."""
    count = min(group.width - 1, max(1, round(group.width * share)))
    return [group.units[number * group.width // count] for number in range(count)]


def _zero(network: nn.Module, units: Sequence[Unit]) -> None:
    """Every slice of these units becomes zero; the tensors of before stay as they are."""
    parameters = dict(network.named_parameters())
    gone: dict[tuple[str, int], list[int]] = {}
    for unit in units:
        for item in unit.slices:
            if item.tensor in parameters:
                gone.setdefault((item.tensor, item.dim), []).append(item.index)
    zeroed: dict[str, torch.Tensor] = {}
    for (name, dim), indices in gone.items():
        if name not in zeroed:
            zeroed[name] = parameters[name].detach().clone()
        zeroed[name].index_fill_(dim, torch.tensor(indices, device=zeroed[name].device), 0)
    replace_tensors(network, {id(parameters[name]): nn.Parameter(tensor) for name, tensor in zeroed.items()})
