"""`espalier compare` and `espalier index`: pages over several runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from devices.errors import EXIT_OK, StorageError, shown
from pipeline.commands.needs import require_compress

_HEAD_BYTES = 1 << 20


def add_commands(commands: Any) -> None:
    """Both commands, for the command line's parser."""
    compares = commands.add_parser("compare", help="several runs side by side, on one page")
    compares.add_argument("first", type=Path, metavar="RUN", help="folder of a run; the others are set against it")
    compares.add_argument("others", type=Path, nargs="+", metavar="RUN", help="folders of the other runs")
    compares.add_argument("--out", type=_page, required=True, metavar="FILE", help="page to write, FILE.html")
    compares.set_defaults(call=compare)
    indexes = commands.add_parser("index", help="all runs below a folder, on one page")
    indexes.add_argument("root", type=Path, metavar="RUNS", help="folder of runs, such as runs; takes index.html")
    indexes.set_defaults(call=index)


def compare(options: argparse.Namespace) -> int:
    """Write the page that compares runs."""
    require_compress()
    from devices.files import write_atomic
    from pipeline.pages.compare import KIND, compare_page

    _require_ours(options.out, KIND)
    page = compare_page([options.first, *options.others], options.out)
    write_atomic(options.out, page.encode("utf-8", "backslashreplace"))
    print(shown(f"comparison: {options.out}"))
    return EXIT_OK


def index(options: argparse.Namespace) -> int:
    """Write the page that lists all runs of a folder."""
    require_compress()
    from devices.files import write_atomic
    from pipeline.pages.index import INDEX_FILE, KIND, index_page
    from pipeline.report.figures import plural

    out = options.root / INDEX_FILE
    _require_ours(out, KIND)
    page, runs, damaged = index_page(options.root)
    write_atomic(out, page.encode("utf-8", "backslashreplace"))
    also = f", and {len(damaged)} damaged or not ended" if damaged else ""
    print(shown(f"index: {out} ({plural(len(runs), 'run')}{also})"))
    return EXIT_OK


def _page(text: str) -> Path:
    if not text.endswith(".html"):
        raise argparse.ArgumentTypeError(f"'{text}' is no name of a page: it ends with .html")
    return Path(text)


def _require_ours(out: Path, kind: str) -> None:
    """Raise `StorageError` when something else than such a page lies there: it would be lost."""
    if not out.exists():
        return
    mark = f'<meta name="generator" content="Espalier {kind}">'.encode()
    try:
        with open(out, "rb") as stream:
            ours = mark in stream.read(_HEAD_BYTES)
    except OSError as cause:
        raise StorageError(str(out), f"cannot be read ({cause.strerror})", "Choose another file") from cause
    if not ours:
        raise StorageError(str(out), f"is there already and no {kind} of ours", "Move it away or choose another file")
