"""Scale of BatchNorm (Liu et al. 2017, section 3): a channel whose scale is small says little."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.prune.criteria.base import CriterionInputs, UnitSums


def score_units(inputs: CriterionInputs) -> list[torch.Tensor | None]:
    """Sum of the magnitudes of each unit's BatchNorm scales: (width,) for each group.

    None for a group without BatchNorm. The scales of other normalizations do not gate a channel, and do not count.
    """
    scales = {
        id(module.weight)
        for module in inputs.network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine
    }
    sums = UnitSums(inputs.groups)
    totals: list[torch.Tensor | None] = [None] * len(inputs.groups)
    for name, parameter in inputs.network.named_parameters():
        for number, part in sums.of(name, parameter.detach().abs()) if id(parameter) in scales else ():
            before = totals[number]
            totals[number] = part if before is None else before + part
    return totals
