"""How far a long step is: shares of a whole, and answers counted image by image."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from devices.engines.base import FloatArray
from devices.stage import Progress

AnswerT = TypeVar("AnswerT")
_FINE = 1000


def part_of(progress: Progress, start: float, end: float) -> Progress:
    """Progress for a part that takes the whole from one share of it to another, 0 to 1, in units of the part's own."""

    def told(done: int, total: int, text: str) -> None:
        progress(round(_FINE * (start + (end - start) * min(done / max(total, 1), 1))), _FINE, text)

    return told


def counted(
    run: Callable[[FloatArray], AnswerT], total: int, progress: Progress, text: str
) -> Callable[[FloatArray], AnswerT]:
    """The same answers; each tells how many of so many images have been asked about."""
    asked = 0

    def answering(images_NCHW: FloatArray) -> AnswerT:
        nonlocal asked
        answer = run(images_NCHW)
        asked += len(images_NCHW)
        progress(min(asked, total), total, text)
        return answer

    return answering
