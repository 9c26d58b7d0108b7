"""`espalier report`."""

from __future__ import annotations

import argparse

from devices.errors import EXIT_OK, EspalierError
from pipeline.commands.needs import require_compress


def report(options: argparse.Namespace) -> int:
    """Print a run's result and write its page again."""
    require_compress()
    from devices.errors import BundleError
    from devices.files import write_atomic
    from pipeline.report.page import render_page
    from pipeline.run_folder import read_run
    from pipeline.summary import summary_lines

    try:
        report = read_run(options.run)
        page, lines = render_page(report), summary_lines(report, options.run)
    except EspalierError:
        raise
    # Whatever is missing or of another kind in it, somebody or another version wrote it.
    except Exception as cause:
        where = str(options.run / "report.json")
        raise BundleError(where, f"does not hold a whole report ({cause!r:.60})", "Run the recipe again") from cause
    write_atomic(options.run / "report.html", page.encode())
    print("\n".join(lines))
    return EXIT_OK
