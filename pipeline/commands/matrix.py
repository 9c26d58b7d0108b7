"""`espalier matrix`: recipes by boards, side by side."""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from devices.errors import EXIT_OK, EXIT_REFUSED, RecipeError, shown_lines
from pipeline.commands.boards import say
from pipeline.commands.needs import require_compress

if TYPE_CHECKING:
    from devices.fleet import BoardConfig


def matrix(options: argparse.Namespace) -> int:
    """Run every recipe on every board of a fleet."""
    require_compress()
    from devices.fleet import read_fleet
    from devices.remote.matrix import matrix_lines, run_matrix
    from pipeline.matrix import Ended, run_one
    from pipeline.recipe import read_recipe

    fleet = read_fleet(options.fleet)
    boards = tuple(fleet.board(name) for name in dict.fromkeys(options.board)) or fleet.boards
    # All of them first: a recipe that cannot be read is better known before hours of the others.
    names = {path: read_recipe(path, options.overrides).name for path in options.recipes}
    doubled = [name for name in names.values() if list(names.values()).count(name) > 1]
    if doubled:
        raise RecipeError(
            f"name '{doubled[0]}'", "is that of two recipes, whose runs would share a folder", "Rename one"
        )

    _require_own_folders(list(names.values()), [board.name for board in boards])

    def run(recipe: Path, board: BoardConfig) -> Ended:
        return run_one(options, recipe, board, f"{names[recipe]} on {board.name}")

    cells = run_matrix(list(names), boards, run, lambda cell: say(f"{names[cell.recipe]} on {cell.board.name}: ended"))
    print(shown_lines(matrix_lines(cells, names.__getitem__, lambda ended: ended.figure)))
    failed = [cell.error for cell in cells if cell.error]
    if failed:
        return failed[0].exit_code
    return EXIT_OK if all(cell.outcome and cell.outcome.passed for cell in cells) else EXIT_REFUSED


def _require_own_folders(names: list[str], boards: list[str]) -> None:
    """Raise `RecipeError` where two cells would share a folder: recipe `a-b` on board `c`, and `a` on `b-c`."""
    cells: dict[str, str] = {}
    for name, board in product(names, boards):
        title = f"{name} on {board}"
        other = cells.setdefault(f"{name}-{board}", title)
        if other != title:
            what = f"would share the folder {name}-{board} with '{other}'"
            raise RecipeError(f"'{title}'", what, "Rename a recipe or a board")
