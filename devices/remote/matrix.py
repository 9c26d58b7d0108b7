"""Recipes by boards, side by side: one board does one thing at a time, and boards do not wait for each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import Generic, TypeVar

from devices.errors import EspalierError
from devices.fleet import BoardConfig

RecipeT = TypeVar("RecipeT")
OutcomeT = TypeVar("OutcomeT")


@dataclass(frozen=True)
class Cell(Generic[RecipeT, OutcomeT]):
    """One recipe on one board: its outcome, or the error that it ended with."""

    recipe: RecipeT
    board: BoardConfig
    outcome: OutcomeT | None
    error: EspalierError | None


def run_matrix(
    recipes: Sequence[RecipeT],
    boards: Sequence[BoardConfig],
    run: Callable[[RecipeT, BoardConfig], OutcomeT],
    told: Callable[[Cell[RecipeT, OutcomeT]], None],
) -> tuple[Cell[RecipeT, OutcomeT], ...]:
    """Run every recipe on every board: one thread a board, its recipes in order. Cells come in the order of recipes.

    `run` and `told` are called from several threads; `told` hears of each cell when it ends. An `EspalierError` ends
    its cell alone; anything else, an interrupt too, ends the matrix when what runs has come back.
    """
    stopped = Event()

    def on_board(board: BoardConfig) -> list[Cell[RecipeT, OutcomeT]]:
        cells = []
        for recipe in recipes:
            if stopped.is_set():
                break
            try:
                cell = Cell[RecipeT, OutcomeT](recipe, board, run(recipe, board), None)
            except EspalierError as error:
                cell = Cell[RecipeT, OutcomeT](recipe, board, None, error)
            except BaseException:
                stopped.set()
                raise
            told(cell)
            cells.append(cell)
        return cells

    if not recipes or not boards:
        return ()
    with ThreadPoolExecutor(max_workers=len(boards)) as threads:
        waiting = [threads.submit(on_board, board) for board in boards]
        try:
            columns = [future.result() for future in waiting]
        except BaseException:
            stopped.set()
            raise
    return tuple(column[row] for row in range(len(recipes)) for column in columns)


def matrix_lines(
    cells: Sequence[Cell[RecipeT, OutcomeT]], name: Callable[[RecipeT], str], figure: Callable[[OutcomeT], str]
) -> list[str]:
    """A table: a row a recipe, a column a board; errors below it."""
    boards = list(dict.fromkeys(cell.board.name for cell in cells))
    rows: dict[str, dict[str, str]] = {}
    for cell in cells:
        failed = f"failed ({cell.error.kind})" if cell.error else ""
        shown = figure(cell.outcome) if cell.outcome is not None else failed or "nothing"
        rows.setdefault(name(cell.recipe), {})[cell.board.name] = shown
    table = [["", *boards], *([title, *(row.get(board, "") for board in boards)] for title, row in rows.items())]
    widths = [max(len(row[column]) for row in table) for column in range(len(boards) + 1)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in table]
    errors = [f"{name(cell.recipe)} on {cell.board.name}: {cell.error}" for cell in cells if cell.error]
    return [*lines, *([""] if errors else []), *errors]
