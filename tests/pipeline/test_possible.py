"""What is refused before anything runs: milliseconds that have no source."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from devices.detect import Host, detect_host
from devices.errors import RecipeError
from devices.profile import HardwareProfile, Profile, load_profile
from pipeline.chain import plan_chain
from pipeline.recipe import read_recipe
from pipeline.store import Store
from pipeline.work import Work
from tests.drill import DRILL

BARE = replace(detect_host(), machine="x86_64", gpus=(), gpu_details=())
"""A computer without a GPU."""
CARD = replace(BARE, gpus=("NVIDIA GeForce RTX 4090",))
RTX = load_profile("rtx-4090")
SLOW = "prune={target_latency_ms=1.0}"
SEARCH = 'search={trials=4,population=2,objectives=["accuracy","latency_ms"]}'


def planned(profile: Profile, store: Path, *overrides: str, host: Host = BARE) -> list[str]:
    """Names of the steps."""
    work = Work(read_recipe(DRILL, overrides), profile, host, "espalier run")
    return [node.name for node in plan_chain(work, Store(store))]


def unrated() -> Profile:
    """A card whose profile has neither rates nor a table: it cannot be predicted either."""
    return replace(RTX, hardware=HardwareProfile(compute_capability="8.9"), latency_table=None)


@pytest.mark.parametrize("host", [BARE, CARD], ids=["elsewhere", "on the card"])
def test_a_search_by_milliseconds_needs_a_device_that_is_measured(host: Host, tmp_path: Path) -> None:
    """Only engines of ONNX Runtime are measured while pruning, so on the card itself neither."""
    with pytest.raises(RecipeError) as refused:
        planned(RTX, tmp_path, SEARCH, host=host)
    assert refused.value.where == "search.objectives: latency_ms"
    assert refused.value.what.startswith("is measured on real engines, and for rtx-4090 ")
    assert refused.value.fix == "Search by macs, or on the device itself"
    assert "search" in planned(RTX, tmp_path, SEARCH.replace("latency_ms", "macs"), host=host)
    assert "search" in planned(load_profile("cpu"), tmp_path, SEARCH, host=host)


def test_a_target_in_milliseconds_needs_a_source(tmp_path: Path) -> None:
    """The rates of the card predict it; without them nothing does."""
    assert "pruned" in planned(RTX, tmp_path, SLOW)
    with pytest.raises(RecipeError) as refused:
        planned(unrated(), tmp_path, SLOW)
    assert refused.value.where == "prune.target_latency_ms"
    assert "can neither be measured here" in refused.value.what
    assert "hardware.bandwidth_gb_s" in refused.value.what
    with pytest.raises(RecipeError, match=r"prune\.latency_source: is 'measured', and"):
        planned(RTX, tmp_path, 'prune={target_latency_ms=1.0,latency_source="measured"}')
    assert "pruned" in planned(unrated(), tmp_path)
