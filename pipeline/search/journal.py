"""What trials gave, a line of JSON each, kept through a kill at any moment.

Only figures are kept. The study itself comes back by asking the sampler again and telling it these figures in order.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from devices.errors import StorageError
from devices.files import canonical_json, storage_errors
from pipeline.search.space import Indices

_FORMAT = "espalier-search/1"

Figures = dict[str, float]
"""Figures of one trial by name."""


class Journal:
    """Figures by trial, in memory and on disk."""

    def __init__(self, path: Path, handle: int, rows: dict[int, tuple[Indices, Figures]]) -> None:
        self._path = path
        self._handle = handle
        self._rows = rows

    def figures(self, number: int, point: Indices) -> Figures:
        """What is known of a trial. Raises `StorageError` when the journal has another point for it."""
        known, figures = self._rows.get(number, (point, {}))
        if known != point:
            raise StorageError(str(self._path), f"has another point for trial {number}", "Remove this file")
        return dict(figures)

    def add(self, number: int, point: Indices, figures: Mapping[str, float]) -> None:
        """Keep figures of a trial; they are on the disk when this returns."""
        self._append({"trial": number, "point": list(point), "figures": dict(figures)})
        self._rows[number] = (point, self.figures(number, point) | dict(figures))

    def _append(self, row: Mapping[str, object]) -> None:
        data = (canonical_json(row) + "\n").encode()
        with storage_errors(self._path.parent):
            while data:
                data = data[os.write(self._handle, data) :]
            os.fsync(self._handle)


@contextmanager
def open_journal(path: Path, identity: str) -> Iterator[Journal]:
    """The journal at `path`, made if there is none; `identity` is a digest of all that decides the trials.

    A line that a kill cut off is passed over, as is any that is damaged: its trial is done again. Raises `StorageError`
    when the journal is of another search, another process has it open, or it cannot be written.
    """
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(str(path), "another run is at this search", "Wait for it to end") from None
        content = path.read_bytes()
        lines = [_parsed(line) for line in content.split(b"\n")]
        heads = [line for line in lines if isinstance(line.get("format"), str)]
        if any((head["format"], head.get("identity")) != (_FORMAT, identity) for head in heads):
            raise StorageError(str(path), "is the journal of another search", "Remove this file")
        journal = Journal(path, handle, _rows_of(lines) if heads else {})
        if not heads:
            # Rows without a head could be of any search.
            os.ftruncate(handle, 0)
            journal._append({"format": _FORMAT, "identity": identity})
        elif not content.endswith(b"\n"):
            # The torn line ends here, or the next row would be lost with it.
            with storage_errors(path.parent):
                os.write(handle, b"\n")
        yield journal
    finally:
        os.close(handle)


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _rows_of(lines: list[dict[str, Any]]) -> dict[int, tuple[Indices, Figures]]:
    rows: dict[int, tuple[Indices, Figures]] = {}
    for line in lines:
        number, point, figures = line.get("trial"), line.get("point"), line.get("figures")
        if type(number) is not int or not isinstance(point, list) or not isinstance(figures, dict):
            continue
        if not all(type(index) is int for index in point) or not all(map(_is_figure, figures.values())):
            continue
        _, known = rows.get(number, ((), {}))
        rows[number] = (tuple(point), known | figures)
    return rows


def _is_figure(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
