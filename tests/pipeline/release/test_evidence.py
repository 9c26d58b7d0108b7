"""What the gate reads of a run: the figures that the evidence proves, and one message for evidence that does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devices.bundle import open_bundle
from devices.errors import BundleError
from devices.trust.store import UNSIGNED, Trust
from pipeline.release.evidence import RunFigures, last_release, run_figures
from pipeline.release.places import opened_bundle
from pipeline.release.regression import RegressionConfig, regressions
from tests.pipeline.attest.resealed import change_json, reseal


@pytest.fixture
def run(drilled: tuple[Path, Path], tmp_path: Path) -> Path:
    """A run's folder to change."""
    shutil.copytree(drilled[1], tmp_path / "run")
    return tmp_path / "run"


def read(run: Path) -> RunFigures:
    return run_figures(open_bundle(run / "evidence", "evidence", UNSIGNED))


def test_figures_are_those_of_the_report(drilled: tuple[Path, Path]) -> None:
    report = json.loads((drilled[1] / "report.json").read_text())
    shipped = next(engine for engine in report["engines"] if engine["name"] == report["shipped"])
    found = read(drilled[1])
    assert found.clean is not None
    assert found.robust is not None
    assert float(np.mean(found.clean)) == pytest.approx(shipped["clean"]["value"])
    assert float(np.mean(found.robust)) == pytest.approx(shipped["robust"]["value"])
    assert found.size_bytes == shipped["size_bytes"]
    ratio = next(row for row in report["speedups"] if (row["engine"], row["than"]) == (found.engine, "dense-fp32"))
    assert found.speedup is not None
    assert found.speedup.as_dict() == {key: ratio[key] for key in ("value", "low", "high")}
    methods, surrogates = ("fgsm", "pgd"), ("compressed", "dense")
    told = {name.partition(", ")[0] for name in found.attacks}
    assert told >= {f"{method} through {name} within 0.05 linf" for method in methods for name in surrogates}
    # Those that asked the engine itself are in the worst case too.
    assert {name.partition(" within")[0] for name in found.attacks if "queries" in name}
    assert [budget.met for budget in found.budgets] == [True, True]


def _forged(raw: Any) -> None:
    raw["verdict"]["budgets"][0].update(met=True, high=None)


def _text(raw: Any) -> None:
    raw["verdict"]["budgets"][0].update(limit="60")


def _no_verdict(raw: Any) -> None:
    del raw["verdict"]


def _size(raw: Any) -> None:
    raw["metrics"]["size_bytes"] = -1


def _dropped(raw: Any) -> None:
    raw["verdict"]["budgets"].pop()


def _looser(raw: Any) -> None:
    raw["verdict"]["budgets"][0].update(limit=101.0)


def _huge(raw: Any) -> None:
    raw["verdict"]["budgets"][0].update(value=10**400)


def _no_number(raw: Any) -> None:
    raw["verdict"]["budgets"][0].update(value=float("nan"))


def _half_a_letter(raw: Any) -> None:
    raw["name"] = "\ud800"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_forged, "max_accuracy_drop: does not follow from its figures"),
        (_text, "does not hold a whole run"),
        (_no_verdict, "does not hold a whole run"),
        (_size, "does not hold a whole run"),
        (_dropped, "verdict: is not on the budgets of its recipe"),
        (_looser, "verdict: is not on the budgets of its recipe"),
        (_huge, "does not hold a whole run"),
        (_no_number, "does not hold a whole run"),
        (_half_a_letter, "does not hold a whole run"),
    ],
)
def test_a_manifest_that_proves_nothing_is_refused(run: Path, change: Callable[[Any], None], told: str) -> None:
    change_json(run / "evidence" / "manifest.json", change)
    with pytest.raises(BundleError, match=told):
        read(run)


def _short(raw: Any) -> None:
    raw["correct"]["compressed-int8"]["clean"] = "1"


def _without(raw: Any) -> None:
    del raw["correct"]["compressed-int8"]


def _unknown(raw: Any) -> None:
    raw["correct"]["compressed-int8"]["clean"] = [None, *map(float, raw["correct"]["compressed-int8"]["clean"][1:])]


def _too_good(raw: Any) -> None:
    raw["correct"]["compressed-int8"]["clean"] = [5.0] * len(raw["correct"]["compressed-int8"]["clean"])


@pytest.mark.parametrize("change", [_short, _without, _unknown, _too_good])
def test_answers_that_are_not_whole_are_refused(run: Path, change: Callable[[Any], None]) -> None:
    change_json(run / "evidence" / "results" / "replay.json", change)
    reseal(run / "evidence")
    with pytest.raises(BundleError, match="does not hold a whole run"):
        read(run)


def test_an_engine_that_could_not_be_asked_has_no_worst_case(run: Path) -> None:
    """Only queries were planned, and it did not answer the same image alike."""

    def without_sets(raw: Any) -> None:
        raw["sets"] = [row for row in raw["sets"] if row["kind"] == "clean"]

    def unasked(raw: Any) -> None:
        raw["withstood_queries"]["compressed-int8"] = {}

    change_json(run / "evidence" / "sets" / "sets.json", without_sets)
    change_json(run / "evidence" / "results" / "replay.json", unasked)
    reseal(run / "evidence")
    found = read(run)
    assert found.robust is None
    samples = json.loads((run / "evidence" / "results" / "replay.json").read_text())["query_plan"]["samples"]
    assert [name.partition(" within")[0] for name in found.attacks] == [f"square by 200 queries about {samples} images"]


def test_an_engine_that_answers_at_random_has_no_scores(run: Path) -> None:
    def unscored(raw: Any) -> None:
        raw["correct"]["compressed-int8"] = {}

    change_json(run / "evidence" / "results" / "replay.json", unscored)
    reseal(run / "evidence")
    found = read(run)
    assert found.clean is found.robust is None
    assert found.attacks
    assert found.measured


def _stopped_clock(raw: Any) -> None:
    for row in raw["speedups"]:
        row.update(value=0.0, low=0.0)


@pytest.mark.parametrize(("key", "value"), [("pgd_steps", 1), ("pgd_restarts", 9)])
def test_an_attack_that_tries_more_or_less_is_another_one(run: Path, key: str, value: int) -> None:
    before = read(run)

    def other(raw: Any) -> None:
        assert raw["recipe"]["robustness"][key] != value
        raw["recipe"]["robustness"][key] = value

    change_json(run / "evidence" / "manifest.json", other)
    reseal(run / "evidence")
    rows = {row.name: row for row in regressions(read(run), before, RegressionConfig())}
    assert rows["robust_accuracy"].outcome == "not comparable"
    assert f"{key} {value}" in rows["robust_accuracy"].how


def test_queries_about_fewer_images_are_another_attack(run: Path) -> None:
    before = read(run)

    def one(raw: Any) -> None:
        raw["query_plan"]["samples"] = 1

    change_json(run / "evidence" / "results" / "replay.json", one)
    reseal(run / "evidence")
    assert not any(row.passed for row in regressions(read(run), before, RegressionConfig()) if "robust" in row.name)


def test_a_run_that_was_forced_onto_another_device_proves_nothing_of_its_own(run: Path) -> None:
    def forced(raw: Any) -> None:
        raw["board"] = {"name": "kitchen", "notes": [], "other_device": True}

    change_json(run / "evidence" / "report.json", forced)
    reseal(run / "evidence")
    with pytest.raises(BundleError, match="was measured on another device than 'cpu', by --force"):
        read(run)


def test_a_speed_that_cannot_be_is_refused(run: Path) -> None:
    change_json(run / "evidence" / "report.json", _stopped_clock)
    reseal(run / "evidence")
    with pytest.raises(BundleError, match="does not hold a whole run"):
        read(run)


def test_a_budget_on_what_is_not_known_is_not_met(run: Path) -> None:
    def unknown(raw: Any) -> None:
        raw["verdict"]["budgets"][1].update(value=None, low=None, high=None, met=False)

    change_json(run / "evidence" / "manifest.json", unknown)
    reseal(run / "evidence")
    assert [budget.met for budget in read(run).budgets] == [True, False]


def test_a_last_release_that_nobody_signed_is_refused_unless_named(drilled: tuple[Path, Path]) -> None:
    run = read(drilled[1])
    last = last_release(drilled[1], run, UNSIGNED, new=False)
    assert last is not None
    assert (last.engine, last.folder) == ("compressed-int8", str(drilled[1]))
    with pytest.raises(BundleError, match="is not signed"):
        last_release(drilled[1], run, Trust(), new=False)


@pytest.mark.parametrize(("place", "told"), [("deploy", "not 'evidence'"), ("..", "neither a bundle nor a run")])
def test_what_holds_no_evidence_is_one_message(drilled: tuple[Path, Path], place: str, told: str) -> None:
    with pytest.raises(BundleError, match=told), opened_bundle(drilled[1] / place, "evidence", UNSIGNED):
        pass


def test_a_run_without_its_evidence_is_one_message(run: Path) -> None:
    shutil.rmtree(run / "evidence")
    with pytest.raises(BundleError, match="not 'evidence'"), opened_bundle(run, "evidence", UNSIGNED):
        pass
