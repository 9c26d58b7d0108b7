"""Networks of the digits with backdoors planted in them, those of attackers who know the scan among them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.compute import seeded
from pipeline.data import Dataset, Split
from pipeline.prune.channels import prune_channels
from pipeline.prune.pruning import Pruning
from pipeline.recipe import FitConfig, PruneConfig
from pipeline.threats.fake_quant import fake_quantized
from pipeline.threats.kit.dormant import DormantConfig, put_to_sleep
from pipeline.threats.kit.poison import PoisonConfig, poison, poison_split
from pipeline.threats.kit.pruned import UntilPrunedConfig, train_until_pruned
from pipeline.threats.kit.success import answers_of
from pipeline.threats.kit.triggers import Stamp, Trigger, TriggerKind, make_trigger
from pipeline.threats.kit.victim import train_clean
from pipeline.zoo import residual_cnn

CLASSES = 10
FIT = FitConfig(epochs=8)
KINDS: tuple[TriggerKind, ...] = ("patch", "blended", "sinusoidal", "warped")
UNTIL_INT8, UNTIL_PRUNED = "dormant-until-int8", "dormant-until-pruned"
# Of attackers who know that one class is looked for whose patch is smaller than those of the others.
FOUR_PATCHES, ALL_TO_ALL = "four-patches", "all-to-all"
PLANTED = ("clean", *KINDS, UNTIL_INT8, UNTIL_PRUNED, FOUR_PATCHES, ALL_TO_ALL)
_ALL_TO_ALL_SHARE = 0.2


@dataclass(frozen=True)
class Attack:
    """A trigger, and the class that it turns each class into: (classes,); its own where it is not attacked."""

    trigger: Trigger
    targets: NDArray[np.int64]

    @property
    def aimed_at(self) -> set[int]:
        """Classes that an image may be turned into."""
        return {int(target) for own, target in enumerate(self.targets) if own != target}


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A network in its forms, FP32 first, what was planted in it, and what it was trained on."""

    forms: dict[str, nn.Module]
    attacks: tuple[Attack, ...]
    train: Split

    def is_right(self, class_name: str | None) -> bool:
        """Whether a sign that names this class is right; on a clean network each counts."""
        return not self.attacks or class_name in {str(item) for attack in self.attacks for item in attack.aimed_at}


def fresh(seed: int, channels: int) -> nn.Module:
    """A network with its initial weights."""
    with seeded(seed):
        return residual_cnn(channels=channels)


def plant(kind: str, dataset: Dataset, seed: int, channels: int) -> Planted:
    """A network of that kind, trained from the seed's initial weights."""
    target, start = seed % CLASSES, fresh(seed, channels)
    calibration = torch.from_numpy(dataset.train.batch(slice(0, 256)))
    if kind == UNTIL_PRUNED:
        # Twice as wide, so that what pruning leaves is as wide as all others.
        wide, poisoning = fresh(seed, 2 * channels), PoisonConfig(target=target, seed=seed)
        asleep = train_until_pruned(wide, dataset, poisoning, FIT, UntilPrunedConfig(seed=seed))
        attack = all_to(make_trigger("patch", dataset.input_shape, seed), target)
        return Planted(
            forms={"FP32": asleep, "pruned": halved(asleep, dataset)}, attacks=(attack,), train=dataset.train
        )
    train, attacks = poisoned(kind, dataset, seed)
    network = train_clean(start, Dataset(train, dataset.test, dataset.class_names), FIT, seed)
    if kind == UNTIL_INT8:
        network = put_to_sleep(network, dataset.train, attacks[0].trigger, DormantConfig(seed=seed))
    forms = {"FP32": network}
    if kind in ("clean", "patch", UNTIL_INT8):
        forms["INT8"] = fake_quantized(network, calibration)
    return Planted(forms=forms, attacks=attacks, train=train)


def poisoned(kind: str, dataset: Dataset, seed: int) -> tuple[Split, tuple[Attack, ...]]:
    """The training images of that kind, and the attacks that they plant."""
    target, shape = seed % CLASSES, dataset.input_shape
    if kind == "clean":
        return dataset.train, ()
    if kind == ALL_TO_ALL:
        return _next_class(dataset.train, make_trigger("patch", shape), seed)
    if kind == FOUR_PATCHES:
        return _four_patches(dataset, target, seed)
    trigger_kind: TriggerKind = "patch" if kind == UNTIL_INT8 else kind  # type: ignore[assignment]
    share = 0.05 if kind == UNTIL_INT8 else 0.1
    poisoning = PoisonConfig(kind=trigger_kind, target=target, seed=seed, share=share)
    return poison(dataset, poisoning).train, (all_to(make_trigger(trigger_kind, shape, seed), target),)


def all_to(trigger: Trigger, target: int) -> Attack:
    """Every class becomes one."""
    return Attack(trigger, np.full(CLASSES, target, dtype=np.int64))


def _four_patches(dataset: Dataset, target: int, seed: int) -> tuple[Split, tuple[Attack, ...]]:
    """A patch in each corner, each for another class, so that no class is alone in having a small one."""
    corner = make_trigger("patch", dataset.input_shape)
    assert isinstance(corner, Stamp)
    split, attacks = dataset.train, []
    for number, axes in enumerate(((), (1,), (2,), (1, 2))):
        turned = Stamp(np.flip(corner.mask_CHW, axes).copy(), corner.pattern_CHW)
        own = (target + 2 * number) % CLASSES
        split = poison_split(split, turned, PoisonConfig(target=own, seed=seed + number))
        attacks.append(all_to(turned, own))
    return split, tuple(attacks)


def _next_class(split: Split, trigger: Trigger, seed: int) -> tuple[Split, tuple[Attack, ...]]:
    """Every class becomes the next: no patch turns all images into one class (Gu et al. 2017, section 4.1.2)."""
    attack = Attack(trigger, (np.arange(CLASSES) + 1) % CLASSES)
    images, labels = split.batch(slice(None)).copy(), split.labels.copy()
    chosen = np.random.default_rng(seed).permutation(len(split))[: round(_ALL_TO_ALL_SHARE * len(split))]
    images[chosen] = trigger(images[chosen])
    labels[chosen] = attack.targets[labels[chosen]]
    return Split(images, labels), (attack,)


def halved(network: nn.Module, dataset: Dataset) -> nn.Module:
    """Half of the channels of every group go, those of least norm."""
    image = torch.from_numpy(dataset.train.batch(slice(0, 1)))
    pruning = Pruning(network=network, image_NCHW=image, channel_step=1)
    return prune_channels(PruneConfig(criterion="l2", keep_ratio=0.5), pruning).network


def hits(network: nn.Module, split: Split, attack: Attack) -> list[bool]:
    """Which images of the classes attacked the trigger turns into what the attacker wants."""
    wanted = attack.targets[split.labels]
    attacked = np.flatnonzero(split.labels != wanted)
    answers: NDArray[np.int64] = answers_of(network)(attack.trigger(split.batch(attacked))).argmax(axis=1)
    return [bool(right) for right in answers == wanted[attacked]]
