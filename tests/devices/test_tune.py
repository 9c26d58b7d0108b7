"""Tuning: what is tried, what is taken by its interval, and what is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from devices import tune
from devices.detect import Host
from devices.engines.ort_options import CPU, OrtOptions
from devices.errors import BundleError
from devices.files import read_json, write_json
from devices.latency import LatencyConfig
from devices.profile_session import SessionProfile
from devices.stage import no_progress
from devices.statistics import Interval
from devices.tune import TUNED_FILE, Trial, best_changes, changes, read_tuned, tune_session, with_change
from tests.devices.parts import OPTIONS

SHORT = LatencyConfig(duration_s=0.05, warmup_s=0.01)


def interval(low: float) -> Interval:
    return Interval(low + 0.1, low, low + 0.2)


def test_what_is_tried_differs_from_the_usual_and_asks_for_no_more_threads() -> None:
    options = OrtOptions(provider=CPU, threads=6)
    tried = changes(options)
    assert [value for option, value in tried if option == "threads"] == [1, 2, 4]
    assert ("spinning", False) in tried
    for option, value in tried:
        assert with_change(options, option, value) != options
    # One thread has nobody to wait for.
    assert {option for option, _ in changes(OPTIONS)} == {"graph_optimization", "arena"}


def test_only_a_gain_beyond_doubt_is_taken_and_of_each_option_the_best() -> None:
    trials = (
        Trial("threads", 1, interval(0.7)),
        Trial("threads", 2, interval(1.05)),
        Trial("threads", 4, interval(1.2)),
        Trial("arena", False, interval(0.999)),
        Trial("spinning", False, None, "refused"),
        Trial("graph_optimization", "basic", interval(1.0)),
    )
    assert best_changes(trials) == [trials[2]]


def test_a_graph_is_tuned_on_real_engines(tmp_path: Path, onnx_path: Path, host: Host) -> None:
    result = tune_session(onnx_path, OPTIONS, SHORT, host, tmp_path, no_progress)
    trials = result.artifact.trials
    assert [(trial.option, trial.value) for trial in trials] == changes(OPTIONS)
    for trial in trials:
        assert trial.times_as_fast is not None
        assert 0 < trial.times_as_fast.low <= trial.times_as_fast.value <= trial.times_as_fast.high
    assert read_tuned(tmp_path) == result.artifact.options
    assert read_json(tmp_path / TUNED_FILE, BundleError) == result.metrics


@pytest.mark.parametrize(("again", "kept"), [(1.3, True), (0.98, False)])
def test_what_pays_must_pay_again(
    tmp_path: Path, onnx_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch, again: float, kept: bool
) -> None:
    """Ratios are given, because none of this small network's could be foretold; engines and files are real."""
    real = tune._measure

    def measured(path, usual, candidates, *rest):  # type: ignore[no-untyped-def]
        _, refused = real(path, usual, candidates, *rest)
        given = {"arena=False": interval(1.2), "graph_optimization=basic": interval(0.5), "combined": interval(again)}
        return {name: given.get(name, interval(0.9)) for name in candidates}, refused

    monkeypatch.setattr(tune, "_measure", measured)
    tuned = tune_session(onnx_path, OPTIONS, SHORT, host, tmp_path, no_progress).artifact
    assert tuned.together == interval(again)
    assert tuned.taken == (("arena",) if kept else ())
    expected = replace(OPTIONS, session=SessionProfile(arena=False)) if kept else OPTIONS
    assert tuned.options == read_tuned(tmp_path) == expected


def test_a_change_that_is_refused_is_told_and_not_taken(
    tmp_path: Path, onnx_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "changes", lambda options: [("provider_of_another_wheel", "x")])
    monkeypatch.setattr(
        tune, "with_change", lambda options, option, value: replace(options, provider="NoSuchExecutionProvider")
    )
    (trial,) = tune_session(onnx_path, OPTIONS, SHORT, host, tmp_path, no_progress).artifact.trials
    assert trial.times_as_fast is None
    assert "no NoSuchExecutionProvider" in trial.refused
    assert read_tuned(tmp_path) == OPTIONS


@pytest.mark.parametrize(
    "change", [{"format": "espalier-tuned/9"}, {"session": {}}, {"threads": "many"}, {"session": {"arenas": 1}}]
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    write_json(tmp_path / TUNED_FILE, tune.Tuned(OPTIONS).as_dict() | change)
    with pytest.raises(BundleError, match=TUNED_FILE):
        read_tuned(tmp_path)


def test_a_number_without_end_is_refused(tmp_path: Path) -> None:
    """No writer of ours writes it; a reader of JSON takes it."""
    content = json.dumps(tune.Tuned(OPTIONS).as_dict() | {"threads": float("inf")})
    (tmp_path / TUNED_FILE).write_text(content)
    with pytest.raises(BundleError, match="is malformed"):
        read_tuned(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=TUNED_FILE):
        read_tuned(tmp_path)
