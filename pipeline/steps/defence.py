"""What a defence is given, and how it is judged on images that it did not see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from devices.errors import DataError, RecipeError
from devices.statistics import paired_difference
from pipeline.data import Dataset, Split, seeded_choice
from pipeline.recipe import Recipe
from pipeline.threats.kit.success import answers_of, attack_success, clean_accuracy, right_of
from pipeline.threats.kit.triggers import TRIGGERS, Trigger, make_trigger, read_trigger
from pipeline.threats.remove.defend import require_samples

_LEAST_JUDGED = 30


def parts_of(dataset: Dataset, samples: int, recipe: Recipe) -> tuple[Split, Split]:
    """Clean samples for the defence, a seeded choice of the test split, and the rest, which judges it.

    The training images may be the poisoned ones, so none of them is taken. Raises `DataError` for too few samples or
    too small a split, `RecipeError` for a task without classes.
    """
    if recipe.task.kind != "classification":
        raise RecipeError("task.kind", f"is '{recipe.task.kind}'", "A defence knows classification alone")
    require_samples(samples)
    test = dataset.test
    if samples > len(test) - _LEAST_JUDGED:
        what = f"asks for {samples} of {len(test)} test images, and {_LEAST_JUDGED} or more must be left to judge by"
        raise DataError("--clean-samples", what, f"Give {max(0, len(test) - _LEAST_JUDGED)} at most")
    own = seeded_choice(len(test), samples, recipe.seed)
    rest = [index for index in range(len(test)) if index not in set(own.tolist())]
    return Split(test.images[own], test.labels[own]), Split(test.images[rest], test.labels[rest])


def trigger_of(text: str, target: str, dataset: Dataset, seed: int) -> tuple[Trigger, int]:
    """A trigger by its kind or file, and the class it is for, by name. Raises `DataError`."""
    if target not in dataset.class_names:
        some = ", ".join(dataset.class_names[:10])
        raise DataError("--target", f"there is no class '{target}'", f"There are {some}")
    if text in TRIGGERS:
        return make_trigger(text, dataset.input_shape, seed), dataset.class_names.index(target)
    if not text.endswith(".npz"):
        raise DataError("--trigger", f"'{text}' is no trigger", f"Take one of {', '.join(TRIGGERS)}, or a file .npz")
    return read_trigger(Path(text), dataset.input_shape), dataset.class_names.index(target)


def judge_defence(
    before: nn.Module, after: nn.Module, judged: Split, trigger: tuple[Trigger, int] | None
) -> dict[str, Any]:
    """Clean accuracy, and attack success where there is a trigger, before and after: JSON values with intervals."""
    old, new = answers_of(before), answers_of(after)
    difference = paired_difference(right_of(old, judged), right_of(new, judged))
    return {
        "samples": len(judged),
        "clean_before": clean_accuracy(old, judged).as_dict(),
        "clean_after": clean_accuracy(new, judged).as_dict(),
        "clean_difference": difference.as_dict(),
        "attack_before": attack_success(old, judged, *trigger).as_dict() if trigger else None,
        "attack_after": attack_success(new, judged, *trigger).as_dict() if trigger else None,
    }
