"""Recipes by boards: side by side, in order on each, and one failure is not all."""

from __future__ import annotations

import threading
import time

import pytest

from devices.errors import DeviceError
from devices.fleet import BoardConfig
from devices.remote.matrix import Cell, matrix_lines, run_matrix

BOARDS = tuple(BoardConfig(name=name, host=name, device="cpu") for name in ("nano", "desk"))


def test_boards_do_not_wait_for_each_other_and_recipes_do() -> None:
    together = threading.Barrier(len(BOARDS), timeout=10)
    order: dict[str, list[str]] = {board.name: [] for board in BOARDS}
    told: list[tuple[str, str]] = []

    def run(recipe: str, board: BoardConfig) -> str:
        # Nobody gets past this alone.
        together.wait()
        order[board.name].append(recipe)
        return f"{recipe} on {board.name}"

    cells = run_matrix(["a", "b", "c"], BOARDS, run, lambda cell: told.append((cell.recipe, cell.board.name)))
    assert order == {"nano": ["a", "b", "c"], "desk": ["a", "b", "c"]}
    assert [cell.outcome for cell in cells] == [f"{r} on {b}" for r in "abc" for b in ("nano", "desk")]
    assert sorted(told) == sorted((r, b) for r in "abc" for b in ("nano", "desk"))


def test_a_failure_ends_its_cell_alone() -> None:
    def run(recipe: str, board: BoardConfig) -> float:
        if (recipe, board.name) == ("a", "nano"):
            raise DeviceError("board 'nano'", "the connection was lost", "Run it again")
        return 1.5

    cells = run_matrix(["a", "b"], BOARDS, run, lambda cell: None)
    assert [cell.error is not None for cell in cells] == [True, False, False, False]
    assert matrix_lines(cells, str, lambda value: f"{value} ms") == [
        "   nano                   desk",
        "a  failed (device error)  1.5 ms",
        "b  1.5 ms                 1.5 ms",
        "",
        "a on nano: board 'nano': the connection was lost. Run it again.",
    ]


def test_a_fault_ends_the_matrix() -> None:
    ran: list[tuple[str, str]] = []

    def run(recipe: str, board: BoardConfig) -> None:
        ran.append((recipe, board.name))
        if board.name == "nano":
            raise ZeroDivisionError
        time.sleep(0.3)

    def told(cell: Cell[str, None]) -> None:
        return None

    with pytest.raises(ZeroDivisionError):
        run_matrix(["a", "b", "c"], BOARDS, run, told)
    assert ("c", "desk") not in ran
    assert [recipe for recipe, board in ran if board == "nano"] == ["a"]


def test_an_empty_matrix_is_empty() -> None:
    assert run_matrix([], BOARDS, lambda recipe, board: None, lambda cell: None) == ()
    assert run_matrix(["a"], (), lambda recipe, board: None, lambda cell: None) == ()
