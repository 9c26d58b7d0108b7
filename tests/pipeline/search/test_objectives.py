"""Which way an objective goes, and what a front covers."""

from __future__ import annotations

import math

import pytest

from devices.errors import RecipeError
from pipeline.search.objectives import costs_of, covered, read_objectives

DENSE = {"accuracy": 0.9, "macs": 100, "latency_ms": 2.0, "energy_mj": 8.0, "robust_accuracy": 0.5}
HALF = {"accuracy": 0.8, "macs": 50, "latency_ms": 1.5, "energy_mj": 4.0, "robust_accuracy": 0.4}


def test_accuracies_rise_and_all_else_falls() -> None:
    names = ("accuracy", "robust_accuracy", "macs", "latency_ms", "energy_mj")
    objectives = read_objectives(names, {"latency_ms", "energy_mj"})
    assert costs_of(objectives, HALF) == (-0.8, -0.4, 50, 1.5, 4.0)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("accuracy", "speed"), "'speed' is not a figure of a trial; there are accuracy, loss, macs, parameters"),
        (("accuracy", "latency_ms"), "'latency_ms' cannot be measured: no engine for this device runs here"),
    ],
)
def test_what_no_trial_reports_is_refused(names: tuple[str, ...], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        read_objectives(names, ())


def test_the_whole_network_covers_nothing_and_a_half_its_accuracy() -> None:
    objectives = read_objectives(("accuracy", "macs"), ())
    assert covered(objectives, [DENSE], DENSE) == 0
    volume = covered(objectives, [DENSE, HALF], DENSE)
    assert volume is not None
    assert math.isclose(volume, 0.8 * 0.5)


def test_three_objectives_cover_a_volume() -> None:
    objectives = read_objectives(("accuracy", "macs", "latency_ms"), {"latency_ms"})
    volume = covered(objectives, [DENSE, HALF], DENSE)
    assert volume is not None
    assert math.isclose(volume, 0.8 * 0.5 * 0.25)


def test_a_figure_without_a_natural_end_has_no_volume() -> None:
    assert covered(read_objectives(("accuracy", "energy_mj"), {"energy_mj"}), [DENSE, HALF], DENSE) is None
