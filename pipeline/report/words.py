"""What the figures of a task are called on the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from devices.scoring import Scoring, TaskKind, kind_of


@dataclass(frozen=True, kw_only=True)
class Words:
    """The words of one task."""

    kind: TaskKind
    noun: str
    """The mean score."""
    axis: str
    """What an axis of it counts."""
    method: str
    """How its interval comes about, in a caption."""
    intervals: str
    """The same in a sentence."""
    worst: str
    """What counts in the worst case."""
    agreement: str
    """What two forms of a network have in common, as the head of a column."""
    difference: str
    """Largest difference between them, as the head of a column."""

    @property
    def title(self) -> str:
        """The noun at the beginning of a sentence."""
        return self.noun[0].upper() + self.noun[1:]


_BY_SCORE = "An image's worst case is the least of what it scores clean and under every attack below."
_WORDS: dict[str, dict[str, str]] = {
    "classification": {
        "axis": "images right",
        "method": "Wilson",
        "intervals": "of accuracy by Wilson's score",
        "worst": "An image counts as held in the worst case only when the engine gets it right clean and under every "
        "attack below.",
        "agreement": "Same answer",
        "difference": "Largest difference of a logit",
    },
    "segmentation": {
        "axis": "labelled pixels right, mean of images",
        "method": "Student's t over images; of mean IoU a bootstrap over images",
        "intervals": "of pixel accuracy by Student's t over images, of mean IoU by a bootstrap over images",
        "worst": _BY_SCORE,
        "agreement": "Pixels of the same class",
        "difference": "Largest difference of a logit",
    },
    "detection": {
        "axis": "average precision within an image, mean of images",
        "method": "Student's t over images; of mean average precision a bootstrap over images",
        "intervals": "of average precision by image by Student's t over images, of mean average precision by a "
        "bootstrap over images",
        "worst": _BY_SCORE,
        "agreement": "Same boxes",
        "difference": "Largest difference of an output",
    },
    "custom": {
        "axis": "mean score",
        "method": "Student's t over images",
        "intervals": "of the score by Student's t over images",
        "worst": _BY_SCORE,
        "agreement": "Agreement",
        "difference": "Largest difference of an output",
    },
}


def words_of(report: Mapping[str, Any]) -> Words:
    """The words of a report's task; one of before there were tasks is of classification."""
    kind = kind_of(report.get("task"))
    return Words(kind=kind, noun=Scoring(kind=kind).noun, **_WORDS[kind])
