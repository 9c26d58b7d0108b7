"""What the gate says: JUnit that parses, Markdown that stays a table, whatever names others gave."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.release.gate import GateResult, judge_release
from pipeline.release.junit import gate_junit
from pipeline.release.regression import RegressionConfig
from pipeline.release.text import gate_lines, gate_markdown
from tests.pipeline.release.figures import asked, figures, scores

HOSTILE = 'a|b`c`<script>alert(1)</script>\x1b[31m\n# head ![x](y) \ud800 & "q" ]]>'


def refused() -> GateResult:
    run = figures(
        clean=scores(700, 1000), budgets=(asked(), asked(name="min_accuracy", value=None, low=None, high=None))
    )
    return judge_release(run, figures(), RegressionConfig(accept=("size",)), new_device=False)


def test_junit_has_a_case_for_each_budget_and_each_regression() -> None:
    suites = ET.fromstring(gate_junit(refused()))
    cases = {case.get("name"): case.find("failure") for case in suites.iter("testcase")}
    assert list(cases) == [
        "max_size_bytes",
        "min_accuracy",
        "regression_accuracy",
        "regression_robust_accuracy",
        "regression_speedup",
        "regression_size",
    ]
    failed = {name for name, failure in cases.items() if failure is not None}
    assert failed == {"min_accuracy", "regression_accuracy"}
    for element in (suites, suites[0]):
        assert (element.get("tests"), element.get("failures"), element.get("errors")) == ("6", "2", "0")
    failure = cases["min_accuracy"]
    assert failure is not None
    assert "not known, and so not proven" in str(failure.get("message"))


def test_lines_and_markdown_say_the_same() -> None:
    lines, page = gate_lines(refused()), gate_markdown(refused())
    assert lines[-1] == "gate: REFUSED"
    assert page.startswith("### digits on cpu: **refused**")
    assert "| accuracy lost | regressed | 20 points (" in page
    assert sum(line.startswith("regressed") for line in lines) == 1
    passed = judge_release(figures(), None, RegressionConfig(), new_device=False)
    assert gate_lines(passed)[1:] == [
        "no budget is set",
        "no last release to compare with",
        "gate: nothing was asked, so nothing is proven",
    ]


def test_where_nothing_was_asked_nothing_says_that_it_passed() -> None:
    """No budget and no last release: the same words on the terminal, in Markdown and in JUnit."""
    result = judge_release(figures(), None, RegressionConfig(), new_device=False)
    assert (result.asked, result.as_dict()["asked"]) == (False, False)
    page = gate_markdown(result)
    assert page.startswith("### digits on cpu: nothing was asked, so nothing is proven\n")
    assert "passed" not in page + "".join(gate_lines(result))
    assert "|" not in page
    suites = ET.fromstring(gate_junit(result))
    (case,) = suites.iter("testcase")
    (skipped,) = case
    assert (skipped.tag, skipped.get("message")) == ("skipped", "nothing was asked, so nothing is proven")
    for element in (suites, suites[0]):
        assert (element.get("tests"), element.get("failures"), element.get("skipped")) == ("1", "0", "1")
    # One of both is enough to be asked something.
    assert judge_release(figures(), figures(), RegressionConfig(), new_device=False).asked
    assert judge_release(figures(budgets=(asked(),)), None, RegressionConfig(), new_device=False).asked
    budget = judge_release(figures(budgets=(asked(),)), None, RegressionConfig(), new_device=False)
    assert b"<skipped" not in gate_junit(budget)


def test_what_was_built_ahead_of_time_is_called_so() -> None:
    result = judge_release(
        figures(clean=None, robust=None, speedup=None, measured=False), None, RegressionConfig(), new_device=False
    )
    assert "nothing of it was measured" in gate_lines(result)[1]
    assert "nothing of it was measured" in gate_markdown(result)
    assert result.as_dict()["measured"] is False
    ran = judge_release(figures(), None, RegressionConfig(), new_device=False)
    assert "ahead of time" not in "".join(gate_lines(ran)) + gate_markdown(ran)


def test_what_answers_at_random_is_not_called_built_ahead_of_time() -> None:
    result = judge_release(
        figures(clean=None, robust=None, budgets=(asked(),)), None, RegressionConfig(), new_device=False
    )
    assert "does not answer the same image alike" in gate_lines(result)[1]
    assert "does not answer the same image alike" in gate_markdown(result)
    assert (result.as_dict()["measured"], result.as_dict()["scored"]) == (True, False)


def _cells(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line))


@given(st.one_of(st.just(HOSTILE), st.text(max_size=40)))
def test_names_of_others_do_no_harm(name: str) -> None:
    result = judge_release(figures(name=name, budgets=(asked(text=name),)), None, RegressionConfig(), new_device=False)
    (case,) = ET.fromstring(gate_junit(result)).iter("testcase")
    assert case.get("name") == "max_size_bytes"
    page = gate_markdown(result)
    plain = gate_markdown(
        judge_release(figures(name="a", budgets=(asked(text="a"),)), None, RegressionConfig(), new_device=False)
    )
    assert "<" not in page
    # The same lines and cells as with a plain name.
    assert [_cells(line) for line in page.splitlines()] == [_cells(line) for line in plain.splitlines()]
    assert all(line.isprintable() for line in [*page.splitlines(), *gate_lines(result)])


@pytest.mark.parametrize("mark", ["|", "`", "*", "_", "<", "[", "#", "!"])
def test_marks_of_markdown_are_escaped(mark: str) -> None:
    page = gate_markdown(judge_release(figures(name=f"x{mark}y"), None, RegressionConfig(), new_device=False))
    assert f"x{mark}y" not in page
