"""Warm-up: until steady, at least so long, at most so long."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from devices.warmup import WarmUp, warm_up


def run(takes_ns: Callable[[int], int], least_s: float, limit_s: float) -> WarmUp:
    """On a clock that only queries move."""
    state = {"now": 0, "count": 0}

    def query() -> None:
        state["now"] += takes_ns(state["count"])
        state["count"] += 1

    found = warm_up(query, least_s, limit_s, lambda: state["now"])
    assert found.queries == state["count"]
    assert found.duration_s == pytest.approx(state["now"] / 1e9)
    return found


def test_a_steady_engine_takes_the_least_time() -> None:
    found = run(lambda _: 1_000_000, 0.3, 3)
    assert found.steady
    assert found.duration_s == pytest.approx(0.3, abs=0.005)
    assert (found.first_ms, found.last_ms) == (1, 1)


def test_an_engine_that_gets_faster_is_run_until_it_does_not() -> None:
    # From 5 ms down to 1 ms over a thousand queries.
    found = run(lambda n: max(1_000_000, 5_000_000 - 4_000 * n), 0.3, 30)
    assert found.steady
    assert found.first_ms == 5
    assert found.last_ms < 1.1
    assert found.duration_s > 2


def test_a_first_query_that_compiles_does_not_count_for_the_medians() -> None:
    found = run(lambda n: 80_000_000 if n == 0 else 1_000_000, 0.3, 3)
    assert found.steady
    assert found.first_ms == 80
    assert found.duration_s < 0.5


def test_what_never_settles_is_ended_and_said() -> None:
    found = run(lambda n: 1_000_000 + 4_000 * n, 0.3, 2)
    assert not found.steady
    assert 2 <= found.duration_s < 2.1


def test_every_window_has_a_query_however_long_that_takes() -> None:
    found = run(lambda _: 1_000_000_000, 0.3, 30)
    assert (found.queries, found.steady) == (3, True)
