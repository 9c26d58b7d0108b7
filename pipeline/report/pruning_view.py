"""What was pruned and how the network came back, in words and rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.report.figures import plural, share, significant

_Figures = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """One step of the schedule."""

    name: str
    macs: str
    as_cut: str
    recalibrated: str
    recovered: str


_ZEROS = {
    "2:4": (
        "Two of every four weights along the inputs",
        "Only TensorRT's sparse kernels are faster by that; other engines multiply zeros like any number.",
    ),
    "weights": ("Single weights", "No engine is faster by that: zeros are multiplied like any number."),
}


def pruning_sentences(report: _Figures) -> str:
    """What pruning took away, and how it was chosen."""
    pruning = report["pruning"]
    if not pruning:
        return "Nothing was pruned: the recipe has no [prune]."
    macs = f"{pruning['macs_before']:,} to {pruning['macs_after']:,}"
    parameters = f"{pruning['parameters_before']:,} to {pruning['parameters_after']:,}"
    kept = (pruning["macs_after"] / pruning["macs_before"], pruning["parameters_after"] / pruning["parameters_before"])
    size = (
        f"From {macs} MACs per image ({100 * kept[0]:.1f} % left) and from {parameters} parameters "
        f"({100 * kept[1]:.1f} % left)."
    )
    return " ".join([size, *_how(pruning, searched=bool(report.get("search")))])


def _how(pruning: _Figures, searched: bool) -> list[str]:
    # Reports of earlier versions do not say.
    granularity = pruning.get("granularity") or "channels"
    # Those of all steps of a schedule; reports of earlier versions have the last one's.
    names = ", ".join(pruning.get("skipped") or [block["name"] for block in pruning.get("blocks") or ()])
    blocks = [f"Whole residual blocks are skipped, those first that the loss misses least: {names}."] if names else []
    if granularity == "blocks":
        return [*blocks, *_milliseconds(pruning)]
    if granularity in _ZEROS:
        what, faster = _ZEROS[granularity]
        return [f"{what} are zero, {100 * pruning['zeros_share']:.1f} % of those of the layers concerned.", faster]
    step, device_step = pruning["channel_step"], pruning.get("device_step")
    why = "the step of this device"
    if device_step not in (None, step):
        why = f"though the step of this device is {device_step}: the target could not be met at that"
    said = [*blocks, f"Where the network allows it, a layer keeps a multiple of {plural(step, 'channel')}, {why}."]
    if pruning.get("criterion"):
        scope = "widths from the search" if searched else f"scope {pruning['scope']}"
        said.append(f"Criterion {pruning['criterion']}, {scope}.")
    if pruning.get("score_fallback"):
        said.append(f"Ranked by l2 instead, as the criterion does not apply: {', '.join(pruning['score_fallback'])}.")
    return [*said, *_milliseconds(pruning)]


def _milliseconds(pruning: _Figures) -> list[str]:
    if not pruning.get("latency_source"):
        return []
    asked = f"Asked for {significant(pruning['limit'])} ms, {pruning['latency_source']}"
    return [f"{asked}: {significant(pruning['reached'])} ms reached."]


def step_rows(report: _Figures) -> list[StepRow]:
    """Each step of the schedule, with the score as it was cut, with new statistics, and after fine-tuning."""
    return [
        StepRow(
            name=row["name"],
            macs=f"{row['macs']:,}",
            as_cut=_score(row["score_as_cut"]),
            recalibrated=_score(row["score_before_recovery"]),
            recovered=f"{_score(row['score'])}, {plural(row['epochs'], 'epoch')}" if row["score"] else "not fine-tuned",
        )
        for row in report.get("steps", ())
    ]


def _score(score: _Figures) -> str:
    return f"{share(score['value'], score['samples'])} %"
