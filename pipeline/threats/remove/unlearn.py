"""What unlearning shows a network: clean images, and the same with the smallest trigger found, by its clean answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from devices.metered import part_of
from devices.stage import Progress
from pipeline.attacks.logits import logits_of
from pipeline.compute import derived_seed
from pipeline.data import Split, seeded_choice
from pipeline.prune.network import inference
from pipeline.recovery.training import Aim
from pipeline.threats.scan.inversion import Inversion, invert
from pipeline.threats.scan.search import SearchConfig
from pipeline.threats.scan.warping import Warping, invert_warps, warp_config
from pipeline.threats.warp import warp

COPIES = 4
"""Of every image, as many clean as with the trigger."""
# The search for a trigger runs all classes side by side, so images times classes are in memory at once.
_INVERTED_SAMPLES = 64
_STEPS = 150
# Twice the scan's: a small patch that is missed is not unlearned.
_STARTS = 16
_WARP_STEPS = 100
# A patch is found larger than it was planted, elsewhere or nearby: what is unlearned are its parts as well.
_KEPT_SHARE = 0.5
# A warp is found smaller than it was planted, and another one from each start.
_STRENGTHS = (1.0, 1.5, 2.0, 3.0)

FOLLOWING = Aim(loss=functional.cross_entropy)
"""Of targets that are probabilities."""

Stamped = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class _Suspected:
    """The smallest trigger of one family."""

    family: str
    index: int
    size_px: float
    gap: float
    """How far it is below that of the next class, in logarithms."""
    copies: Sequence[Stamped]


def with_trigger(
    network: nn.Module, clean: Split, classes: int, seed: int, progress: Progress
) -> tuple[Split, dict[str, Any]]:
    """Four times the clean images (N, C, H, W), four times with the smallest trigger found, and what was found.

    Wang et al. 2019, section 6.3, with both kinds in equal number, and the trigger in several forms. The targets are
    what the network itself says of the clean images, (N, classes), which holds its accuracy better than labels do.
    Patches and warps are looked for on 64 of the images; taken is the kind whose smallest is farthest below that of
    the next class.

    Raises `ModelError` when the network has no gradients by its input.
    """
    images = torch.from_numpy(clean.batch(slice(None)))
    # Drawn, because samples of a folder come class by class.
    looked = images[torch.from_numpy(seeded_choice(len(clean), _INVERTED_SAMPLES, seed))]
    search = SearchConfig(steps=_STEPS, starts=_STARTS, seed=seed)
    patches = invert(network, looked, classes, search, part_of(progress, 0.0, 0.8))
    warps = []
    for number in range(COPIES):
        part = part_of(progress, 0.8 + 0.2 * number / COPIES, 0.8 + 0.2 * (number + 1) / COPIES)
        wanted = warp_config(_WARP_STEPS, derived_seed(seed, number), starts=1)
        warps.append(invert_warps(network, looked, classes, wanted, part))
    generator = torch.Generator().manual_seed(seed)
    both = (_patch(patches, generator), _warp(warps))
    found = max(both, key=lambda item: item.gap)
    shown = [form(images) for form in found.copies]
    with inference(network):
        answers = logits_of(network, looked)(images).softmax(dim=1)
    split = Split(torch.cat([*[images] * len(shown), *shown]).numpy(), answers.repeat(2 * len(shown), 1).numpy())
    told = {"trigger": found.family, "class": found.index, "trigger_size_px": found.size_px}
    gaps = {f"{item.family}_gap": item.gap for item in both}
    return split, told | gaps | {"trigger_samples": len(looked)}


def _gap(sizes: torch.Tensor) -> float:
    # Not in deviations: of a network that few warps turn, the others' sizes are far apart.
    ordered = sizes.double().clamp(min=1e-6).log().sort().values
    return float(ordered[1] - ordered[0]) if len(ordered) > 1 else 0.0


def _patch(found: Inversion, generator: torch.Generator) -> _Suspected:
    index = int(found.norms_px.argmin())
    mask, pattern = found.masks_KHW[index], found.patterns_KCHW[index]

    def whole(images: torch.Tensor) -> torch.Tensor:
        return (1 - mask) * images + mask * pattern

    def part(images: torch.Tensor) -> torch.Tensor:
        kept = mask * (torch.rand(len(images), 1, *mask.shape, generator=generator) < _KEPT_SHARE)
        return (1 - kept) * images + kept * pattern

    copies = (whole, *[part] * (COPIES - 1))
    return _Suspected("patch", index, float(found.norms_px[index]), _gap(found.norms_px), copies)


def _warp(found: Sequence[Warping]) -> _Suspected:
    sizes = torch.stack([item.shifts_px for item in found]).amin(dim=0)
    index = int(sizes.argmin())

    def by(strength: float, field_12HW: torch.Tensor) -> Stamped:
        return lambda images: warp(images, strength * field_12HW)

    pairs = zip(_STRENGTHS, found, strict=True)
    copies = tuple(by(strength, item.fields_K2HW[index : index + 1]) for strength, item in pairs)
    return _Suspected("warp", index, float(sizes[index]), _gap(sizes), copies)
