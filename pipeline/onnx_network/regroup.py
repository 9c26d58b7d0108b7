"""Reshapes that say which lengths go into which, so that they still hold when channels are gone.

A file writes the lengths it was exported with. Both shapes are cut into the shortest runs of equal product; within a
run every length but one is fixed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipeline.onnx_network.graph import Extent
from pipeline.onnx_network.site import Built, Site, UnfitError
from pipeline.reshape_runs import reshape_runs

OPEN, IMAGES = -1, -2
# Stands for the batch while shapes are cut into runs: no length is a multiple of it.
_PRIME = 2_147_483_647


@dataclass(frozen=True)
class Run:
    """Lengths that become others of the same product."""

    taken: int
    """How many of the input's."""
    sizes: tuple[int, ...]
    """The output's; `OPEN` for the one that follows from the rest, `IMAGES` for the batch."""
    batch: bool = False
    """Whether the batch is among the output's."""


class Regroup(nn.Module):
    """A reshape by runs. The fixed lengths are attributes `size_1`, `size_2`, ... by dimension of the output."""

    def __init__(self, runs: Sequence[Run]) -> None:
        super().__init__()
        names: list[tuple[int, tuple[str, ...], bool]] = []
        dim = 0
        for run in runs:
            own = []
            for size in run.sizes:
                own.append({OPEN: "", IMAGES: "batch"}.get(size, f"size_{dim}"))
                if size > 0:
                    setattr(self, own[-1], size)
                dim += 1
            names.append((run.taken, tuple(own), run.batch))
        self._runs = tuple(names)

    def forward(self, x: torch.Tensor, image_NCHW: torch.Tensor) -> torch.Tensor:
        """The same values in the other shape; of the image, the batch counts."""
        target: list[Any] = []
        start = 0
        for taken, names, batch in self._runs:
            known = {name: getattr(self, name) for name in names if name.startswith("size")}
            # Only one length can be left to PyTorch, and the batch is the one that is not a number in an export.
            open_size = -1 if batch else math.prod(x.shape[start : start + taken]) // math.prod(known.values())
            known |= {"": open_size, "batch": image_NCHW.shape[0]}
            target += [known[name] for name in names]
            start += taken
        return x.reshape(target)

    def extra_repr(self) -> str:
        """Lengths taken, and made of them."""
        return ", ".join(f"{taken} to {len(names)}" for taken, names, _ in self._runs)


def build_reshape(site: Site) -> Built:
    """`Reshape`, `Flatten`: by the shapes that were seen; an open length of the file stays open."""
    before, after = site.shape(), site.result()
    written = site.counts(1) if site.node.op == "Reshape" else None
    open_at = written.index(Extent(-1)) if written and Extent(-1) in written else None
    return Built(Regroup(runs_of(before, after, open_at)), (site.name(0), site.graph.image))


def runs_of(before: Sequence[Extent], after: Sequence[Extent], open_at: int | None = None) -> list[Run]:
    """Cut two shapes of equal product into the shortest runs. Raises `UnfitError` when they are empty or differ."""
    old, new = ([extent.size * (_PRIME if extent.batch else 1) for extent in side] for side in (before, after))
    if 0 in old or math.prod(old) != math.prod(new):
        raise UnfitError(f"a reshape of {len(before)} to {len(after)} dimensions is empty or depends on the batch")
    runs: list[Run] = []
    i = j = 0
    for (start_i, i), (start_j, j) in reshape_runs(old, new):
        runs.append(_run(before, after, (start_i, i), (start_j, j), open_at))
    # What is left on either side are lengths of one.
    if i < len(old):
        last = runs.pop() if runs else Run(0, ())
        runs.append(Run(last.taken + len(old) - i, last.sizes, last.batch))
    if j < len(new):
        runs.append(Run(0, (1,) * (len(new) - j)))
    return runs


def _run(
    before: Sequence[Extent],
    after: Sequence[Extent],
    taken: tuple[int, int],
    made: tuple[int, int],
    open_at: int | None,
) -> Run:
    extents = after[made[0] : made[1]]
    batch = [place for place, extent in enumerate(extents) if extent.batch]
    if len(batch) > 1:
        raise UnfitError("a reshape makes the batch twice")
    rest = [place for place in range(len(extents)) if place not in batch]
    # The batch alone never shrinks, so that another may be open beside it; several times the batch may be heads.
    images = batch if rest and batch and extents[batch[0]].size == 1 else []
    if batch and not images:
        free = batch[0]
    elif open_at is not None and made[0] <= open_at < made[1] and open_at - made[0] in rest:
        free = open_at - made[0]
    else:
        # The last dimension of tokens is split into heads and depth, where heads may go; any other one into groups
        # and channels, where channels may.
        tokens = taken == (len(before) - 1, len(before)) and len(before) > 2 and len(rest) > 1
        free = rest[-2 if tokens else -1]
    fixed = [extent.size for extent in extents]
    sizes = tuple(OPEN if place == free else IMAGES if place in images else size for place, size in enumerate(fixed))
    return Run(taken[1] - taken[0], sizes, bool(batch))
