"""A precision ships only when every measured interval says that it is faster."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.errors import RecipeError
from devices.ship import decide_precision, ship_lines
from devices.statistics import Interval

FASTER, SAME, SLOWER = Interval(1.8, 1.7, 1.9), Interval(1.02, 0.97, 1.07), Interval(0.8, 0.75, 0.85)


@pytest.mark.parametrize(
    ("measured", "ships", "verdict"),
    [
        ({"fp32": FASTER}, "int8", "faster"),
        ({"fp32": FASTER, "fp16": SAME}, "fp16", "no significant gain"),
        ({"fp32": FASTER, "fp16": SLOWER}, "fp16", "slower"),
        ({"fp32": SLOWER, "fp16": SAME}, "fp32", "slower"),
        ({"fp32": Interval(3.0, 0.9, 9.0), "fp16": FASTER}, "fp32", "no significant gain"),
        ({"fp32": Interval(1.0, 1.0, 1.0)}, "fp32", "no significant gain"),
    ],
)
def test_what_ships(measured: dict[str, Interval], ships: str, verdict: str) -> None:
    decision = decide_precision("int8", measured)
    assert (decision.precision, decision.verdict) == (ships, verdict)
    assert decision.as_dict()["candidate"] == "int8"


def test_the_reason_has_the_figures() -> None:
    (line,) = ship_lines(decide_precision("int8", {"fp16": SLOWER}))
    says = "int8 is slower, 0.8 times as fast as fp16 on this device (0.75 to 0.85): fp16 is shipped"
    assert line == f"shipped: fp16. {says}"
    assert "not faster by 2 times beyond doubt" in decide_precision("int8", {"fp32": FASTER}, min_gain=2).reason


def test_without_a_measurement_nothing_is_decided() -> None:
    with pytest.raises(RecipeError, match="int8: was measured against nothing"):
        decide_precision("int8", {})


_INTERVALS = st.tuples(*[st.floats(0.1, 10)] * 3).map(sorted).map(lambda ends: Interval(ends[1], ends[0], ends[2]))


@given(measured=st.dictionaries(st.sampled_from(["fp32", "fp16", "bf16"]), _INTERVALS, min_size=1))
def test_it_ships_when_and_only_when_all_intervals_are_above_one(measured: dict[str, Interval]) -> None:
    decision = decide_precision("int8", measured)
    assert (decision.precision == "int8") == all(interval.low > 1 for interval in measured.values())
    assert decision.precision == "int8" or not measured[decision.precision].low > 1
