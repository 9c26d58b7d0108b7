"""Spikes are counted and listed, and nothing is thrown away."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.spikes import find_spikes


def test_spikes_are_counted_with_their_time() -> None:
    latencies = np.full((10, 20), 1_000_000)
    latencies[3, 4], latencies[7, 0], latencies[5, 5] = 9_000_000, 2_500_000, 2_000_000
    began = np.cumsum(latencies.ravel()).reshape(latencies.shape) - latencies
    found = find_spikes(latencies, began)
    assert (found.count, found.threshold_ms) == (2, 2.0)
    assert [(spike.at_s, spike.latency_ms) for spike in found.longest] == [(0.064, 9.0), (0.149, 2.5)]
    assert found.share == 2 / 200
    assert found.time_share == pytest.approx(11.5 / 210.5)
    assert json.loads(json.dumps(found.as_dict()))["longest"][0]["latency_ms"] == 9.0


def test_of_many_spikes_the_longest_are_listed_in_the_order_of_time() -> None:
    latencies = np.where(np.arange(1000) % 10 == 0, 5_000_000 + np.arange(1000) * 1000, 1_000_000)
    found = find_spikes(latencies, np.arange(1000))
    assert found.count == 100
    assert [spike.latency_ms for spike in found.longest] == [(5000 + n) / 1000 for n in range(800, 1000, 10)]


@given(st.lists(st.integers(1, 10**10), min_size=1, max_size=100))
def test_a_spike_is_a_query_of_over_twice_the_median(latencies: list[int]) -> None:
    found = find_spikes(np.array(latencies), np.arange(len(latencies)))
    assert found.count == sum(latency > 2 * np.median(latencies) for latency in latencies)
    assert found.count <= len(latencies) / 2
    assert 0 <= found.time_share < 1
    assert all(spike.latency_ms > found.threshold_ms for spike in found.longest)


def test_times_must_fit_the_latencies() -> None:
    with pytest.raises(ValueError, match="shape"):
        find_spikes(np.ones((2, 3), np.int64), np.ones(6, np.int64))
