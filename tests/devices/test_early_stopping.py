"""Early stopping: what LoadGen itself said, and what must hold for every input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from devices.early_stopping import discarded_queries, percentile_bound, queries_needed

# Said by mlcommons-loadgen 6.0.17, SingleStream, for so many queries: how many of the worst it "would discard".
LOADGEN = {
    0.5: {43: 12, 45: 13, 60: 19, 65: 21, 100: 36, 458: 202, 500: 222, 663: 300, 1024: 473, 5000: 2416, 24576: 12104},
    0.9: {64: 0, 65: 0, 100: 2, 200: 9, 458: 29, 459: 30, 663: 47, 1000: 77, 1024: 79, 5000: 449, 24576: 2347},
    0.97: {458: 4, 500: 5, 661: 8, 1000: 16, 1024: 17, 5000: 121, 24576: 674},
    0.99: {662: 0, 663: 0, 1000: 1, 1024: 2, 5000: 32, 24576: 208},
}
# The fewest queries that it asks for.
LOADGEN_NEEDS = {0.5: 11, 0.9: 64, 0.97: 219, 0.99: 662}

shares = st.sampled_from([0.5, 0.9, 0.95, 0.97, 0.99, 0.999])


@pytest.mark.parametrize("percentile", LOADGEN)
def test_it_discards_what_loadgen_discards(percentile: float) -> None:
    found = {queries: discarded_queries(queries, percentile) for queries in LOADGEN[percentile]}
    assert found == LOADGEN[percentile]


@pytest.mark.parametrize("percentile", LOADGEN_NEEDS)
def test_it_asks_for_as_many_queries_as_loadgen(percentile: float) -> None:
    needed = LOADGEN_NEEDS[percentile]
    assert queries_needed(1, percentile) == needed
    assert discarded_queries(needed, percentile) == 0
    assert discarded_queries(needed - 1, percentile) is None


@given(st.integers(1, 200_000), shares)
def test_t_is_the_most_whose_chance_is_below_one_percent(queries: int, percentile: float) -> None:
    discarded = discarded_queries(queries, percentile)
    if discarded is None:
        assert binom.cdf(1, queries, 1 - percentile) >= 0.01 * (1 - 1e-9)
        return
    assert binom.cdf(discarded + 1, queries, 1 - percentile) < 0.01 * (1 + 1e-9)
    assert binom.cdf(discarded + 2, queries, 1 - percentile) >= 0.01 * (1 - 1e-9)


@given(st.integers(0, 5_000), shares)
def test_the_queries_that_are_needed_are_the_fewest(above: int, percentile: float) -> None:
    needed = queries_needed(above, percentile)
    assert needed > above
    assert binom.cdf(above, needed, 1 - percentile) < 0.01 * (1 + 1e-9)
    assert binom.cdf(above, needed - 1, 1 - percentile) >= 0.01 * (1 - 1e-9)


@given(st.lists(st.integers(1, 10**9), min_size=64, max_size=500), st.randoms())
def test_the_bound_is_the_next_after_those_that_are_discarded(latencies: list[int], random: object) -> None:
    found = percentile_bound(np.array(latencies), 0.9)
    assert found is not None
    assert found.value == sorted(latencies, reverse=True)[found.discarded]
    assert found.value >= np.percentile(latencies, 90, method="lower")
    assert percentile_bound(np.array(latencies[::-1]), 0.9) == found


def test_the_bound_holds_the_true_percentile_in_99_of_100_runs() -> None:
    rng = np.random.default_rng(0)
    runs = 2000
    # The 90th percentile of the exponential distribution is ln 10.
    drawn = (rng.exponential(1e6, (runs, 300))).astype(np.int64)
    held = sum((percentile_bound(row, 0.9) or pytest.fail("none")).value >= 1e6 * np.log(10) for row in drawn)
    assert 0.98 <= held / runs < 1


def test_too_few_queries_have_no_bound() -> None:
    assert percentile_bound(np.arange(63), 0.9) is None
    assert percentile_bound(np.arange(0), 0.9) is None


@pytest.mark.parametrize("percentile", [0, 1, 90])
def test_a_percentile_is_a_share(percentile: float) -> None:
    with pytest.raises(ValueError, match="not between 0 and 1"):
        discarded_queries(100, percentile)
