"""Figures read from evidence: each one as it stands there, and a refusal for each that cannot be."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from devices.bundle import open_bundle
from devices.statistics import Interval
from devices.trust.store import UNSIGNED
from pipeline.attest.explain import explain
from pipeline.release.evidence import Asked
from tests.pipeline.release.evidence_parts import (
    BASELINE,
    CLEAN,
    ENGINE,
    TWIN,
    Change,
    Contents,
    at,
    contents,
    read,
    refusal,
    write_evidence,
)


def answers(text: str) -> list[bool]:
    return [letter == "1" for letter in text]


def test_every_figure_is_the_one_in_the_evidence(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert found.clean is not None
    assert found.robust is not None
    assert found.clean.tolist() == answers(CLEAN)
    # The least of clean, FGSM, PGD and, of the first four, the queries; corruptions are no attack.
    assert found.robust.tolist() == answers("00010111")
    told = {field.name: getattr(found, field.name) for field in fields(found) if field.name not in ("clean", "robust")}
    drop = Asked(
        name="max_accuracy_drop", text="max accuracy drop", unit="points", limit=2.0, value=0.5, low=-1.0, high=1.5
    )
    assert told == {
        "folder": str(tmp_path / "evidence"),
        "name": "small",
        "device": "cpu",
        "task": "classification",
        "engine": ENGINE,
        "baseline": BASELINE,
        "budgets": (drop, found.budgets[1]),
        "samples": found.samples,
        "attacks": (
            "fgsm through dense within 0.1 linf",
            "pgd through dense within 0.1 linf in bytes, pgd_steps 10, pgd_restarts 2",
            "square by 200 queries about 4 images within 0.1 linf",
        ),
        "size_bytes": 4264,
        "speedup": Interval(2.0, 1.5, 2.5),
        "measured": True,
    }
    assert [budget.met for budget in found.budgets] == [True, True]
    evidence = open_bundle(tmp_path / "evidence", "evidence", UNSIGNED)
    assert found.samples == {name: evidence.digests[f"sets/{name}"] for name in ("clean.npy", "labels.npy")}


def test_the_evidence_is_whole_for_other_readers_too(tmp_path: Path) -> None:
    evidence = open_bundle(write_evidence(tmp_path / "evidence"), "evidence", UNSIGNED)
    assert explain(evidence, None)[-1] == "6 steps on x86_64-avx2, 5 links: all match"


def test_nothing_that_was_not_measured_is_told(tmp_path: Path) -> None:
    found = read(tmp_path, at("report", "measured", value=False))
    assert (found.clean, found.robust, found.speedup, found.measured) == (None, None, None, False)
    # What it was to be attacked by stands in the sets.
    assert found.attacks == tuple(name for name in read(tmp_path / "whole").attacks if "queries" not in name)


def test_measured_is_the_baseline_itself(tmp_path: Path) -> None:
    found = read(tmp_path, at("report", "baseline", value=ENGINE))
    assert found.speedup == Interval(1.0, 1.0, 1.0)


@pytest.mark.parametrize("left", [slice(0, 2), slice(0, 0)])
def test_a_speed_that_was_not_measured_is_none(tmp_path: Path, left: slice) -> None:
    rows = contents()["report"]["speedups"][left]
    assert read(tmp_path, at("report", "speedups", value=rows)).speedup is None


@pytest.mark.parametrize(
    "speed",
    [(1.0, 0.0, 2.0), (1.0, -1.0, 2.0), (1.0, 1.1, 2.0), (2.1, 1.0, 2.0), ("1.0", 1.0, 2.0), (1.0, True, 2.0)],
)
def test_a_speed_that_cannot_be_is_refused(tmp_path: Path, speed: tuple[object, object, object]) -> None:
    row = dict(zip(("value", "low", "high"), speed, strict=True))
    told = refusal(tmp_path, lambda content: content["report"]["speedups"][2].update(row))
    assert ("speed-up" if all(type(figure) is float for figure in speed) else "figure") in told.what


@pytest.mark.parametrize("speed", [(1.0, 1.0, 1.0), (0.5, 0.1, 0.9)])
def test_a_speed_whose_ends_meet_is_one(tmp_path: Path, speed: tuple[float, float, float]) -> None:
    row = dict(zip(("value", "low", "high"), speed, strict=True))
    assert read(tmp_path, lambda content: content["report"]["speedups"][2].update(row)).speedup == Interval(*speed)


@pytest.mark.parametrize("size", [0, -1, 4264.0, True, None, "4264"])
def test_a_size_that_cannot_be_is_refused(tmp_path: Path, size: object) -> None:
    assert "size " in refusal(tmp_path, at("manifest", "metrics", "size_bytes", value=size)).what


def test_the_smallest_size_is_one_byte(tmp_path: Path) -> None:
    assert read(tmp_path, at("manifest", "metrics", "size_bytes", value=1)).size_bytes == 1


@pytest.mark.parametrize("board", [None, {}, {"name": "kitchen"}, {"other_device": False}])
def test_a_run_on_its_own_device_is_read(tmp_path: Path, board: object) -> None:
    assert read(tmp_path, at("report", "board", value=board)).measured


def test_what_a_forced_run_is_told(tmp_path: Path) -> None:
    told = refusal(tmp_path, at("report", "board", value={"other_device": True}))
    assert told.what == "was measured on another device than 'cpu', by --force: it proves nothing"
    assert told.where == str(tmp_path / "evidence")


@pytest.mark.parametrize(
    ("method", "effort"),
    [
        ("fgsm", ""),
        ("apgd_ce", ", budget standard, restarts 1"),
        ("apgd_dlr", ", budget standard, restarts 1, targets 3"),
        ("fab", ", budget standard, restarts 1, targets 3"),
        ("square", ", budget standard, square_queries 500, restarts 1"),
    ],
)
def test_an_attack_is_told_with_its_effort(tmp_path: Path, method: str, effort: str) -> None:
    found = read(tmp_path, at("sets", "sets", 1, "method", value=method))
    assert f"{method} through dense within 0.1 linf{effort}" in found.attacks


def test_sets_of_before_there_were_norms_are_of_linf(tmp_path: Path) -> None:
    def older(content: Contents) -> None:
        for row in content["sets"]["sets"]:
            del row["norm"], row["rounded"]

    assert "fgsm through dense within 0.1 linf" in read(tmp_path, older).attacks


def test_clean_alone_has_no_worst_case(tmp_path: Path) -> None:
    def clean_alone(content: Contents) -> None:
        content["sets"]["sets"] = content["sets"]["sets"][:1]
        content["replay"]["query_plan"] = None
        content["replay"]["withstood_queries"] = {}

    found = read(tmp_path, clean_alone)
    assert (found.attacks, found.robust) == ((), None)
    assert found.clean is not None


def test_where_queries_are_all_that_was_asked_the_others_do_not_count(tmp_path: Path) -> None:
    found = read(tmp_path, lambda content: content["sets"].update(sets=content["sets"]["sets"][:1]))
    assert found.robust is not None
    # Clean and withstood, of four images of eight.
    assert found.robust.tolist() == answers("0111")


def test_one_attacked_set_is_enough_for_all_samples_to_count(tmp_path: Path) -> None:
    found = read(tmp_path, lambda content: content["sets"].update(sets=content["sets"]["sets"][:2]))
    assert found.robust is not None
    assert found.robust.tolist() == answers("01010111")


def test_queries_that_others_were_asked_do_not_count(tmp_path: Path) -> None:
    found = read(tmp_path, lambda content: content["replay"]["withstood_queries"].pop(ENGINE))
    assert found.robust is not None
    assert found.robust.tolist() == answers("10010111")


def test_a_run_of_before_there_were_queries_is_read(tmp_path: Path) -> None:
    def older(content: Contents) -> None:
        del content["replay"]["query_plan"], content["replay"]["withstood_queries"]

    found = read(tmp_path, older)
    assert len(found.attacks) == 2
    assert found.robust is not None
    assert found.robust.tolist() == answers("10010111")


def scored(content: Contents) -> None:
    """Scores from 0 to 1 in place of right and wrong."""
    rows = {"clean": [0.0, 0.5, 1.0], "fgsm_dense": [0.0, 0.25, 1.0], "pgd_dense": [0.0, 0.75, 0.5]}
    content["replay"]["scores"] = {ENGINE: rows}
    del content["replay"]["correct"], content["replay"]["withstood_queries"], content["replay"]["query_plan"]


def test_scores_are_read_as_they_are(tmp_path: Path) -> None:
    found = read(tmp_path, scored)
    assert found.clean is not None
    assert found.robust is not None
    assert (found.clean.tolist(), found.robust.tolist()) == ([0.0, 0.5, 1.0], [0.0, 0.25, 0.5])


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("1", "sets of different lengths"),
        ([], "scores of shape (0,)"),
        ("", "scores of shape (0,)"),
        ([[1.0]] * 8, "scores of shape (8, 1)"),
        ([0.5] * 7 + [1.001], "scores outside 0 to 1"),
        ([0.5] * 7 + [-0.001], "scores outside 0 to 1"),
        ([0.5] * 7 + [None], "scores outside 0 to 1"),
    ],
)
def test_scores_that_cannot_be_are_refused(tmp_path: Path, row: object, told: str) -> None:
    assert told in refusal(tmp_path, at("replay", "correct", ENGINE, "clean", value=row)).what


def test_an_engine_without_scores_has_none(tmp_path: Path) -> None:
    found = read(tmp_path, at("replay", "correct", ENGINE, value={}))
    assert found.clean is found.robust is None
    assert len(found.attacks) == 3


@pytest.mark.parametrize(
    "change",
    [
        at("sets", value=[]),
        at("replay", value=[]),
        at("replay", value={}),
        at("replay", value=None),
        at("report", "speedups", value=5),
        at("report", "speedups", value=[{}]),
        at("manifest", "recipe", value=None),
        at("manifest", "metrics", "size_bytes", value=[]),
        at("sets", "sets", 1, "epsilon", value=10**400),
    ],
)
def test_what_is_not_whole_is_one_message(tmp_path: Path, change: Change) -> None:
    told = refusal(tmp_path, change)
    assert told.what.startswith("does not hold a whole run (")
    assert told.fix == "Run the recipe again with this version"


def test_the_least_of_several_queries_counts(tmp_path: Path) -> None:
    rows = {"square": "1101", "boundary": "1110"}
    found = read(tmp_path, at("replay", "withstood_queries", ENGINE, value=rows))
    assert found.robust is not None
    assert found.robust.tolist() == answers("10000111")
    assert np.mean(found.robust) == 0.5


def test_speed_is_against_the_engines_own_baseline(tmp_path: Path) -> None:
    assert read(tmp_path, at("report", "baseline", value=TWIN)).speedup == Interval(1.2, 1.1, 1.3)


@pytest.mark.parametrize("key", ["name", "device"])
def test_a_name_that_no_terminal_takes_is_refused(tmp_path: Path, key: str) -> None:
    """Half a letter: JSON can hold it, and no file can."""
    assert "UnicodeEncodeError" in refusal(tmp_path, at("manifest", key, value="\ud800")).what
