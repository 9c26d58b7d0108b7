"""`espalier index`: all runs below a folder, on one page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from devices.errors import BundleError, EspalierError
from devices.files import storage_errors
from pipeline.pages.run_line import RunLine, run_line, shown
from pipeline.report.figures import plural
from pipeline.report.page import page_environment
from pipeline.run_folder import MARK_FILE, RUN_FILE, read_run, whole_report

KIND = "index"
INDEX_FILE = "index.html"
_DEEPEST = 3


@dataclass(frozen=True, kw_only=True)
class DamagedRun:
    """A folder that should hold a run and does not."""

    label: str
    why: str


def index_page(root: Path) -> tuple[str, list[RunLine], list[DamagedRun]]:
    """The page of all runs below `root`, with what is on it. Raises `BundleError` when there is none."""
    if not root.is_dir():
        raise BundleError(str(root), "is not a folder", "Give the folder that holds runs, such as runs")
    runs: list[RunLine] = []
    damaged: list[DamagedRun] = []
    with storage_errors(root):
        folders = sorted(_run_folders(root, _DEEPEST))
    for folder in folders:
        label = shown(str(folder.relative_to(root)))
        try:
            with whole_report(folder):
                runs.append(run_line(read_run(folder), folder, label, root / INDEX_FILE))
        except EspalierError as error:
            damaged.append(DamagedRun(label=label, why=shown(str(error))))
    if not folders:
        raise BundleError(str(root), "holds no run", "Give the folder that holds runs, such as runs")
    content = {
        "runs": runs,
        "damaged": damaged,
        "count": plural(len(runs), "run"),
        "kind": KIND,
        "title": f"{plural(len(runs), 'run')} in {shown(root.resolve().name)}",
    }
    page = page_environment(Path(__file__).parent).get_template("index.html").render(content)
    return page, runs, damaged


def _run_folders(folder: Path, deepest: int) -> Iterator[Path]:
    """Folders of runs, ended or not; nothing inside one is another."""
    for inner in folder.iterdir():
        if inner.name.startswith(".") or not inner.is_dir():
            continue
        if (inner / RUN_FILE).is_file() or (inner / MARK_FILE).is_file():
            yield inner
        elif deepest > 1:
            yield from _run_folders(inner, deepest - 1)
