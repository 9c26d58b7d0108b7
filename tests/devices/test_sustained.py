"""The sustained measurement: throttling is found, dated and explained; a device that holds is said to hold."""

from __future__ import annotations

import json
import time
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from devices.sustained import SustainedConfig, Window, judge_sustained, run_sustained, sustained_lines
from devices.telemetry.series import Series
from devices.telemetry.watch import WatchConfig, Watched, watching
from tests.devices.telemetry.trees import expand

SECOND = 1_000_000_000
START_S = datetime(2026, 11, 24, 12, 0, 0, tzinfo=timezone.utc).timestamp()
CONFIG = SustainedConfig()
GIVES_WAY = 12


def windows(p50_ms: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[Window, ...]:
    noise = 1 + np.random.default_rng(0).normal(0, 0.005, p50_ms.size)
    return tuple(Window(float(n), 100, ms, 2 * ms, 3 * ms, 0) for n, ms in enumerate(p50_ms * noise))


def watched(root: Path, **channels: tuple[str, np.ndarray[tuple[int], np.dtype[np.float64]]]) -> Watched:
    """A board whose samples, at 1 Hz, are these; `__` stands for the point."""
    with watching(WatchConfig(root=root)) as found:
        pass
    named = {name.replace("__", "."): column for name, column in channels.items()}
    series = Series(
        np.arange(300) * SECOND,
        {name: values for name, (_, values) in named.items()},
        {name: unit for name, (unit, _) in named.items()},
    )
    return Watched(found[0].before, found[0].after, found[0].samples, series, ())


def test_throttling_is_dated_with_clock_and_temperature(tmp_path: Path) -> None:
    at = np.arange(300)
    board = watched(
        tmp_path,
        clock__gpu=("MHz", np.where(at < 182, 624.75, 420.0)),
        clock__cpu0=("MHz", np.full(300, 1510.0)),
        temperature__tj=("°C", 60 + at / 5),
    )
    found = judge_sustained(windows(np.where(at < 182, 1.0, 1.4)), CONFIG, board, 0, START_S)
    (shift,) = found.shifts
    assert shift.at_s == pytest.approx(182, abs=1)
    assert shift.utc.startswith("2026-11-24T12:03:0")
    assert shift.before_ms == pytest.approx(1.0, rel=0.01)
    assert shift.after_ms == pytest.approx(1.4, rel=0.01)
    assert shift.clocks == {"clock.gpu": (624.75, 420.0)}
    assert shift.temperature["temperature.tj"] == pytest.approx(96, abs=1)
    assert shift.is_throttling
    assert found.is_throttled
    assert found.slowdown == pytest.approx(0.4, abs=0.02)
    text = "\n".join(sustained_lines(found.as_dict()))
    assert "throttled: from 18" in text
    assert "gpu 625 to 420 MHz, tj at 96." in text
    json.dumps(found.as_dict(), allow_nan=False)


def test_slower_while_the_clocks_hold_is_not_called_throttling(tmp_path: Path) -> None:
    at = np.arange(300)
    board = watched(tmp_path, clock__gpu=("MHz", np.full(300, 624.75)))
    found = judge_sustained(windows(np.where(at < 100, 1.0, 1.2)), CONFIG, board, 0, START_S)
    assert len(found.shifts) == 1
    assert not found.is_throttled


def test_the_systems_own_word_is_enough(tmp_path: Path) -> None:
    at = np.arange(300)
    board = watched(tmp_path, throttle__oc3=("count", np.where(at < 105, 14.0, 20.0)))
    found = judge_sustained(windows(np.where(at < 100, 1.0, 1.2)), CONFIG, board, 0, START_S)
    assert found.is_throttled


def test_a_device_that_recovers_is_faster_again(tmp_path: Path) -> None:
    at = np.arange(300)
    slow = (at >= 100) & (at < 200)
    board = watched(tmp_path, clock__gpu=("MHz", np.where(slow, 420.0, 624.75)))
    found = judge_sustained(windows(np.where(slow, 1.4, 1.0)), CONFIG, board, 0, START_S)
    assert [shift.is_throttling for shift in found.shifts] == [True, False]
    assert found.slowdown == pytest.approx(0, abs=0.01)
    assert "% faster" in "\n".join(sustained_lines(found.as_dict()))


def test_a_device_that_holds(tmp_path: Path) -> None:
    found = judge_sustained(windows(np.full(300, 1.0)), CONFIG, watched(tmp_path), 0, START_S)
    assert found.shifts == ()
    assert sustained_lines(found.as_dict())[1] == "  the latency held its level throughout"


def test_a_real_run_on_a_board_that_gives_way(tmp_path: Path) -> None:
    """The query takes ten times as long after twelve windows, when the recorded GPU clock falls."""
    root = expand("orin-nano", tmp_path)
    clock = root / "sys/class/devfreq/17000000.gpu/cur_freq"
    ended_s: list[float] = []
    windows_done = 0

    def query() -> None:
        time.sleep(0.002 if windows_done < GIVES_WAY else 0.02)
        ended_s.append(time.perf_counter())

    def progress(done: int, total: int, text: str) -> None:
        nonlocal windows_done
        windows_done += 1
        if windows_done == GIVES_WAY:
            clock.write_text("204000000\n")

    config = SustainedConfig(duration_s=2.0, window_s=0.05, least_change=0.3)
    found = run_sustained(query, config, WatchConfig(root=root, rate_hz=50), progress)
    # From the first query's end, and the last window is as long as its last query makes it.
    assert ended_s[-1] - ended_s[0] > 0.9 * config.duration_s
    last = found.windows[-1]
    assert last.at_s < config.duration_s
    # The queries' own clock, and the time of the first of them.
    assert found.duration_s == pytest.approx(ended_s[-1] - ended_s[0], abs=0.5)
    assert sum(window.queries for window in found.windows) == found.queries == len(ended_s)
    # On a busy machine there may be others.
    shift = max(found.shifts, key=lambda shift: shift.after_ms / shift.before_ms)
    assert shift.after_ms > 1.5 * shift.before_ms
    place = [window.at_s for window in found.windows].index(shift.at_s)
    assert abs(place - GIVES_WAY) <= 1
    assert shift.is_throttling
    assert shift.clocks["clock.gpu"] == (306.0, 204.0)


@pytest.mark.parametrize("wrong", [{"window_s": 0.0}, {"duration_s": 1.0}, {"least_change": 0.0}])
def test_what_cannot_be_run_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="no sustained measurement"):
        SustainedConfig(**wrong)
