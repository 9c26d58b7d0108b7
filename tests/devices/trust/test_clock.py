"""When a key's time has come and gone, to the second."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from devices.trust.clock import Lifetime, Standing, day, plausible

FROM_S, UNTIL_S = 1000.0, 2000.0


@pytest.mark.parametrize(
    ("now_s", "standing"),
    [
        (FROM_S - 1, "not yet valid"),
        (FROM_S, "valid"),
        (UNTIL_S, "valid"),
        (UNTIL_S + 1, "expired"),
        (499.0, "unknown"),
        (500.0, "not yet valid"),
    ],
)
def test_both_ends_count_and_a_clock_may_show_when_trust_was_written(now_s: float, standing: Standing) -> None:
    assert Lifetime(not_before_s=FROM_S, not_after_s=UNTIL_S).standing(now_s, 500.0) == standing


def test_an_end_alone_needs_a_clock_and_no_end_needs_none() -> None:
    assert Lifetime(not_before_s=FROM_S).standing(UNTIL_S, 0.0) == "valid"
    assert Lifetime(not_before_s=FROM_S).standing(0.0, 500.0) == "unknown"
    assert Lifetime(not_after_s=UNTIL_S).standing(FROM_S, 0.0) == "valid"
    assert Lifetime().standing(0.0, 500.0) == "valid"


def test_no_clock_shows_the_year_2100() -> None:
    end_s = datetime(2100, 1, 1, tzinfo=timezone.utc).timestamp()
    assert plausible(end_s - 1, 0.0)
    assert not plausible(end_s, 0.0)


@pytest.mark.parametrize(
    ("now_s", "text"), [(0.0, "1970-01-01"), (86_400.0 * 365, "1971-01-01"), (1e18, "1000000000000000000 s after 1970")]
)
def test_a_day_is_told_as_people_write_it(now_s: float, text: str) -> None:
    assert day(now_s) == text
