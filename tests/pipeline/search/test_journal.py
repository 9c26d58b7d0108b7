"""The journal of a search: it survives what a kill or a disk does to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.errors import StorageError
from pipeline.search.journal import open_journal

ROWS = [((1, 2), {"accuracy": 0.5, "macs": 10}), ((0, 3), {"accuracy": 1 / 3, "macs": 7}), ((2, 2), {"accuracy": 0.0})]


def _written(path: Path) -> bytes:
    with open_journal(path, "id") as journal:
        for number, (point, figures) in enumerate(ROWS):
            journal.add(number, point, figures)
        journal.add(1, (0, 3), {"latency_ms": 1.25})
    return path.read_bytes()


def test_what_was_added_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "journal"
    _written(path)
    with open_journal(path, "id") as journal:
        assert journal.figures(0, (1, 2)) == ROWS[0][1]
        assert journal.figures(1, (0, 3)) == {"accuracy": 1 / 3, "macs": 7, "latency_ms": 1.25}
        assert journal.figures(3, (9, 9)) == {}


@given(cut=st.integers(0, 400))
def test_a_kill_at_any_byte_loses_the_last_row_at_most(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("cut") / "journal"
    whole = _written(path)
    path.write_bytes(whole[:cut])
    # A row that lacks nothing but its line's end is whole.
    complete = len([line for line in whole[: cut + 1].split(b"\n")[:-1] if line])
    rows_left = max(0, min(complete - 1, 3))
    with open_journal(path, "id") as journal:
        assert [bool(journal.figures(number, point)) for number, (point, _) in enumerate(ROWS)] == [
            number < rows_left for number in range(3)
        ]
        journal.add(7, (4, 4), {"accuracy": 0.75})
    # What is written behind the torn line is not lost with it.
    with open_journal(path, "id") as journal:
        assert journal.figures(7, (4, 4)) == {"accuracy": 0.75}
        assert [bool(journal.figures(number, point)) for number, (point, _) in enumerate(ROWS)] == [
            number < rows_left for number in range(3)
        ]


@pytest.mark.parametrize(
    "damage",
    [b"\xff\x00\xfe", b"[1, 2]", b'{"trial": true, "point": [1, 2], "figures": {}}', b"[" * 9999]
    + [f'{{"trial": 1, "point": [0, 3], "figures": {{"accuracy": {bad}}}}}'.encode() for bad in ("NaN", '"x"', "[]")],
)
def test_a_damaged_row_is_passed_over_alone(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "journal"
    lines = _written(path).split(b"\n")
    path.write_bytes(b"\n".join([*lines[:2], damage, *lines[3:]]))
    with open_journal(path, "id") as journal:
        assert journal.figures(0, (1, 2)) == ROWS[0][1]
        assert journal.figures(1, (0, 3)) == {"latency_ms": 1.25}
        assert journal.figures(2, (2, 2)) == ROWS[2][1]


def test_rows_without_a_head_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(_written(path).partition(b"\n")[2])
    for _ in range(2):
        with open_journal(path, "id") as journal:
            assert journal.figures(0, (1, 2)) == {}


def test_another_search_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    before = _written(path)
    with pytest.raises(StorageError, match="journal of another search"), open_journal(path, "other"):
        pass
    assert path.read_bytes() == before


def test_another_point_for_a_trial_is_refused(tmp_path: Path) -> None:
    _written(tmp_path / "journal")
    with open_journal(tmp_path / "journal", "id") as journal, pytest.raises(StorageError, match="for trial 1"):
        journal.figures(1, (0, 2))


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with open_journal(path, "id") as journal:
        with pytest.raises(StorageError, match="another run is at this search"), open_journal(path, "id"):
            pass
        journal.add(0, (1,), {"accuracy": 1.0})
    with open_journal(path, "id") as journal:
        assert journal.figures(0, (1,)) == {"accuracy": 1.0}


def test_a_folder_that_takes_no_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write here"), open_journal(tmp_path / "file" / "journal", "id"):
        pass
