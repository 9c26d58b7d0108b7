"""From what was measured to findings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from devices.statistics import paired_difference
from pipeline.prune.network import inference
from pipeline.threats.scan.findings import Finding
from pipeline.threats.scan.look import CleanImages, Look, References, turned
from pipeline.threats.scan.outlier import LEAST_CLASSES, lowest_outlier, mad_false_alarm_rate, mad_index
from pipeline.threats.scan.unusual import unusual_classes

LEAST_REFERENCES = 3
# A trigger that works on one network and on the one before nearly as well was there before.
_LEAST_GAP = 0.1
_TOO_FEW = f"fewer than {LEAST_CLASSES} classes cannot show an outlier"


def judge_inversion(
    name: str, look: Look, references: References | None, class_names: tuple[str, ...], rate: float
) -> Finding:
    """Is the smallest patch of one class far smaller than those of the others? Neural Cleanse's index is told too."""
    assert look.inversion is not None
    norms = look.log_norms
    sizes = _Sizes("inversion", "trigger", norms, references.log_norms if references is not None else None)
    more = {
        "norms_px": [float(value) for value in look.inversion.norms_px],
        "mad_index": mad_index(norms),
        "mad_false_alarm_rate_above_2": mad_false_alarm_rate(len(norms)),
    }
    return _judge_sizes(name, sizes, class_names, rate, more)


def judge_warping(
    name: str, look: Look, references: References | None, class_names: tuple[str, ...], rate: float
) -> Finding:
    """Is the smallest warp of one class far smaller than those of the others?"""
    assert look.warping is not None
    sizes = _Sizes("warping", "warp", look.log_shifts, references.log_shifts if references is not None else None)
    more = {"shifts_px": [float(value) for value in look.warping.shifts_px]}
    return _judge_sizes(name, sizes, class_names, rate, more)


@dataclass(frozen=True)
class _Sizes:
    """Of the smallest triggers of one family, as logarithms."""

    method: str
    trigger: str
    values: NDArray[np.float64]
    """(classes,)."""
    references: NDArray[np.float64] | None
    """(networks, classes)."""


def _judge_sizes(name: str, sizes: _Sizes, class_names: tuple[str, ...], rate: float, more: dict[str, Any]) -> Finding:
    """With references, each class is compared with its own trigger on clean networks: some classes are near to all
    others by nature. With three or more it has to stand out from them too, and not from the other classes alone: the
    weaker of the two tests is told.
    """
    values = sizes.values
    references = sizes.references if sizes.references is not None and len(sizes.references) else None
    expected = references.mean(axis=0) if references is not None else 0.0
    outlier = lowest_outlier(values - expected, rate)
    value, threshold = (outlier.score, outlier.threshold) if outlier else (0.0, None)
    p_value = outlier.p_value if outlier else None
    of = "the others"
    if outlier and references is not None and len(references) >= LEAST_REFERENCES:
        unusual = unusual_classes(values, references, rate)
        if unusual.scores[outlier.index] / unusual.threshold < outlier.score / outlier.threshold:
            of, value, threshold = "the references", float(unusual.scores[outlier.index]), unusual.threshold
            p_value = float(unusual.p_values[outlier.index])
    against = "its own size on clean references" if references is not None else "those of the others"
    return Finding(
        method=sizes.method,
        network=name,
        statistic=f"how far one class' smallest {sizes.trigger} is below {against}, in deviations of {of},",
        value=value,
        threshold=threshold,
        false_alarm_rate=rate if outlier else None,
        assumes=f"log sizes of a clean network's {sizes.trigger}s are normal and alike" if outlier else _TOO_FEW,
        class_name=class_names[outlier.index] if outlier else None,
        sign=threshold is not None and value > threshold,
        detail=more
        | {"references": len(references) if references is not None else 0}
        | ({"p_value": p_value} if outlier else {}),
    )


def judge_sensitivity(
    name: str, look: Look, references: References | None, class_names: tuple[str, ...], rate: float
) -> Finding:
    """Do clean images suffer more from changed neurons than on clean networks? Told only, without three of them."""
    from scipy.stats import t

    assert look.sensitivity is not None
    felt, value = look.sensitivity, float(np.log(max(look.sensitivity.loss, 1e-12)))
    known = references.log_losses if references is not None else np.zeros(0)
    judged = felt.changed and len(known) >= LEAST_REFERENCES
    limit = None
    if judged:
        # The prediction interval of one more draw.
        spread = float(known.std(ddof=1)) * np.sqrt(1 + 1 / len(known))
        limit = float(known.mean() + t.isf(rate, len(known) - 1) * spread)
    why = f"without {LEAST_REFERENCES} clean references nobody knows what is usual (threats.references)"
    if not felt.changed:
        why = "the network has no hidden neurons to change"
    return Finding(
        method="sensitivity",
        network=name,
        statistic="log loss of clean images under changed neurons",
        value=value,
        threshold=limit,
        false_alarm_rate=rate if judged else None,
        assumes="clean networks are as the references, normal" if judged else why,
        class_name=class_names[felt.into],
        sign=limit is not None and value > limit,
        detail={"loss": felt.loss, "share_into_class": felt.share, "references": len(known)},
    )


def judge_stages(
    name: str,
    look: Look,
    network: nn.Module,
    before: tuple[str, nn.Module],
    clean: CleanImages,
    rate: float,
) -> Finding:
    """Does a trigger of one class work that did not work on the network before?

    Each class' trigger, found on this network, is shown to both. A backdoor that a stage woke turns images on this one
    alone. A gap whose 95 % interval does not lie above a tenth counts as none: where the others have next to no gaps, a
    few images would be an outlier.
    """
    assert look.inversion is not None
    older_name, older = before
    now, then = turned(network, clean, look.inversion), turned(older, clean, look.inversion)
    gaps = now.mean(axis=1) - then.mean(axis=1)
    outlier = lowest_outlier(-gaps, rate)
    worst = int(gaps.argmax())
    interval = paired_difference(then[worst], now[worst])
    large = interval.low > _LEAST_GAP
    flips = _flips(older, network, clean)
    return Finding(
        method="stages",
        network=name,
        statistic=f"how far one class' trigger works better than on {older_name}, in deviations of the others,",
        value=outlier.score if outlier and large else 0.0,
        threshold=outlier.threshold if outlier else None,
        false_alarm_rate=rate if outlier else None,
        assumes="what a stage changes is normal and alike in all classes" if outlier else _TOO_FEW,
        class_name=clean.class_names[worst],
        sign=bool(outlier and outlier.found and large),
        detail={
            "before": older_name,
            "gap": interval.as_dict(),
            "gaps": [float(gap) for gap in gaps],
            "clean_answers_changed": int(flips.sum()),
            "clean_answers_changed_into": [int(count) for count in flips],
        },
    )


def _flips(older: nn.Module, network: nn.Module, clean: CleanImages) -> NDArray[np.int64]:
    """Clean images whose answer the stage changed, by the class that they now get, (classes,)."""
    with inference(older), inference(network):
        then, now = older(clean.images).argmax(dim=1), network(clean.images).argmax(dim=1)
    return np.asarray(torch.bincount(now[now != then], minlength=len(clean.class_names)).numpy())
