"""`espalier compare`: several runs on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from devices.errors import BundleError
from pipeline.pages.compare_view import changed_keys, latency_sentence, pair_rows
from pipeline.pages.pairs import read_evidence
from pipeline.pages.run_line import labels_of, run_line, shown
from pipeline.report.page import page_environment
from pipeline.report.plot_tradeoff import front_note, tradeoff_plots
from pipeline.report.words import words_of
from pipeline.run_folder import read_run, whole_report

KIND = "comparison"


def compare_page(folders: Sequence[Path], page: Path) -> str:
    """The page of these run folders, to be written to `page`. Raises `BundleError` for a damaged or unlike run."""
    labels = labels_of(folders)
    reports, evidence, runs = [], [], []
    for folder, label in zip(folders, labels, strict=True):
        with whole_report(folder):
            reports.append(read_run(folder))
            evidence.append(read_evidence(folder, reports[-1]))
            runs.append(run_line(reports[-1], folder, label, page))
    kinds = [words_of(report).kind for report in reports]
    for folder, kind in zip(folders, kinds, strict=True):
        if kind != kinds[0]:
            what = f"is of {kind}, and {folders[0]} of {kinds[0]}: their scores mean different things"
            raise BundleError(str(folder), what, "Compare runs of one task")
    with whole_report(folders[0]):
        candidates = [run.candidate for run in runs]
        content = {
            "runs": runs,
            "words": words_of(reports[0]),
            "first": labels[0],
            "pairs": pair_rows(labels, evidence),
            "latency": latency_sentence(runs, [shown(str(folder)) for folder in folders]),
            "changed": changed_keys([report["recipe"] for report in reports]),
            "plots": tradeoff_plots(candidates, reports[0]),
            "front_note": front_note(candidates, reports[0]),
            "kind": KIND,
            "title": f"Comparison of {len(runs)} runs",
        }
        return page_environment(Path(__file__).parent).get_template("compare.html").render(content)
