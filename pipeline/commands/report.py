"""`espalier report`."""

from __future__ import annotations

import argparse

from devices.errors import EXIT_OK, shown_lines
from pipeline.commands.needs import require_compress


def report(options: argparse.Namespace) -> int:
    """Print a run's result and write its page again."""
    require_compress()
    from devices.files import write_atomic
    from pipeline.report.layer_times_view import read_layer_times
    from pipeline.report.page import render_page
    from pipeline.run_folder import read_run, whole_report
    from pipeline.summary import summary_lines

    with whole_report(options.run):
        report = read_run(options.run)
        # They stand on the page alone: what the evidence holds stays as it is.
        times = {"layer_times": read_layer_times(options.layers, report)} if options.layers else {}
        page, lines = render_page(report | times), summary_lines(report, options.run)
    write_atomic(options.run / "report.html", page.encode("utf-8", "backslashreplace"))
    print(shown_lines(lines))
    return EXIT_OK
