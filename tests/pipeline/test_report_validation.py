"""Validation during training, on the report's page."""

from __future__ import annotations

from pipeline.report.page import render_page
from pipeline.report.validation_view import validation_rows
from tests.pipeline.example_report import example_report


def test_the_best_epoch_stands_beside_the_last() -> None:
    training = [
        {"name": "dense", "accuracy": [0.5, 0.8, 0.7], "clean": [0.6, 0.9, 0.95], "best_epoch": 2},
        {"name": "recovered", "accuracy": [0.9, 0.91], "clean": [], "best_epoch": 2},
    ]
    content = example_report() | {"training": training}
    robust, plain = validation_rows(content)
    assert (robust.watched, robust.best_epoch, robust.best, robust.last) == (
        "under attack",
        "2 of 3",
        "80.0 %",
        "70.0 %",
    )
    assert (robust.clean_best, robust.clean_last) == ("90.0 %", "95.0 %")
    assert (plain.watched, plain.clean_last) == ("clean", "the same")
    page = render_page(content).replace("\N{NO-BREAK SPACE}", " ")
    assert "robust overfitting" in page
    assert "95.0 %" in page


def test_reports_without_validation_have_no_table() -> None:
    assert validation_rows(example_report()) == []
    assert "robust overfitting" not in render_page(example_report())
