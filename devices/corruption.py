"""What corruptions cost an engine, beside the dense baseline on the same images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from devices.robustness import Replay
from devices.statistics import mean_score, paired_mean_ratio


def corruption_summary(found: Replay, baseline: Replay) -> dict[str, object] | None:
    """Mean error on corrupted images, and its ratio to the baseline's with the interval; None without corruptions.

    Relative corruption error after Hendrycks & Dietterich (2019, section 4.3): they take the mean of the corruptions'
    ratios, here it is the ratio of their means, which an easy corruption without an error leaves defined. All strengths
    of a corruption count alike. A ratio is None where the baseline errs too seldom to tell.
    """
    ours, theirs = _errors(found), _errors(baseline)
    if not ours:
        return None
    rows = []
    for method, errors in ours.items():
        base = float(theirs[method].mean())
        error = float(errors.mean())
        rows.append({"method": method, "error": error, "ratio": error / base if base > 0 else None})
    whole, base_whole = (np.mean(list(errors.values()), axis=0) for errors in (ours, theirs))
    ratio = paired_mean_ratio(whole, base_whole)
    return {
        "samples": len(whole),
        "error": mean_score(whole).as_dict(),
        "error_ratio": ratio.as_dict() if ratio else None,
        "methods": rows,
    }


def _errors(replay: Replay) -> dict[str, NDArray[np.float64]]:
    """Mean over strengths of what each image's answer falls short of right, (N,), by corruption."""
    scores: dict[str, list[NDArray[np.float64]]] = {}
    for info in replay.infos:
        if info.kind == "corruption":
            scores.setdefault(info.method, []).append(replay.scores[info.name].astype(np.float64))
    return {method: 1 - np.mean(values, axis=0) for method, values in scores.items()}
