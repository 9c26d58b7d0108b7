"""Configs as JSON and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.agent_config import decode, encode
from devices.detect import Host
from devices.errors import BundleError
from devices.latency import LatencyConfig
from devices.measure import MeasurePlan
from devices.profile import Profile, load_profile, profile_names


@dataclass(frozen=True, kw_only=True)
class Inner:
    share: float
    kind: Literal["one", "two"] = "one"


@dataclass(frozen=True, kw_only=True)
class Outer:
    count: int
    inner: Inner
    pair: tuple[str, int] = ("a", 1)
    many: tuple[Inner, ...] = ()
    either: int | str | None = None
    table: Mapping[str, float] = field(default_factory=dict)
    flag: bool = False


INNERS = st.builds(Inner, share=st.floats(allow_nan=False), kind=st.sampled_from(["one", "two"]))
OUTERS = st.builds(
    Outer,
    count=st.integers(),
    inner=INNERS,
    pair=st.tuples(st.text(), st.integers()),
    many=st.lists(INNERS, max_size=3).map(tuple),
    either=st.none() | st.integers() | st.text(),
    table=st.dictionaries(st.text(), st.floats(allow_nan=False)),
    flag=st.booleans(),
)


def through_json(config: Any) -> Any:
    return decode(type(config), json.loads(json.dumps(encode(config))), "here")


@given(OUTERS)
def test_a_config_comes_as_it_went(config: Outer) -> None:
    assert through_json(config) == config


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_travels(name: str) -> None:
    profile = load_profile(name)
    assert isinstance(profile, Profile)
    assert through_json(profile) == profile


def test_plans_and_hosts_travel(host: Host) -> None:
    plan = MeasurePlan(baseline="a", shipped="b", batch_sizes=(1, 8), latency=LatencyConfig(duration_s=1))
    assert through_json(plan) == plan
    assert through_json(host) == host


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ([], "here: must be a table"),
        ({"inner": {"share": 1}}, "here: count: is missing"),
        ({"count": 1, "inner": {"share": 1}, "speed": 3}, "here: speed: is not a key of Outer"),
        ({"count": 1.5, "inner": {"share": 1}}, "here: count: must be of type int, not float"),
        ({"count": True, "inner": {"share": 1}}, "here: count: must be of type int, not bool"),
        ({"count": 1, "inner": {"share": "1"}}, "here: inner: share: must be of type float, not str"),
        ({"count": 1, "inner": {"share": 1, "kind": "three"}}, "here: inner: kind: must be of type"),
        ({"count": 1, "inner": {"share": 1}, "pair": ["a"]}, "here: pair: must be of type"),
        ({"count": 1, "inner": {"share": 1}, "many": [{}]}, "here: many[0]: share: is missing"),
        ({"count": 1, "inner": {"share": 1}, "either": []}, "here: either: must be of type str, not list"),
        ({"count": 1, "inner": {"share": 1}, "table": {"x": None}}, "here: table: x: must be of type float"),
    ],
)
def test_what_does_not_fit_is_named(raw: Any, said: str) -> None:
    with pytest.raises(BundleError) as caught:
        decode(Outer, raw, "here")
    assert str(caught.value).startswith(said)
