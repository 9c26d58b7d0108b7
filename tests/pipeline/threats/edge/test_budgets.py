"""Budgets on threats: the bad end of the worst judged figure of what ships."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.edge_nodes import scan_section
from pipeline.recipe import ThreatsConfig
from pipeline.threats.budgets import threat_figures
from pipeline.threats.edge.subject import befores


def threat(name: str, of: str = "engine", **shares: float) -> dict[str, Any]:
    """Figures of these artifacts, each with an interval of a tenth to both sides, by role_artifact."""
    figures = []
    for key, share in shares.items():
        role, _, artifact = key.partition("_")
        interval = {"value": share, "low": share - 0.1, "high": share + 0.1}
        figures.append({"artifact": artifact.replace("_", "-"), "role": role, "interval": interval})
    return {"name": name, "of": of, "figures": figures}


def found(name: str, shipped: str, *threats: dict[str, Any]) -> Any:
    return {key: figure for key, _, _, figure in threat_figures(threats, shipped)}[name]


def test_the_worst_judged_figure_of_what_ships_counts() -> None:
    """Neither controls, nor what is told alone, nor other engines."""
    tried = threat("patch", judged_dense_int8=0.9, judged_compressed_int8=0.3, control_compressed_int8=0.8)
    assert found("max_patch_success", "compressed-int8", tried) == pytest.approx((30.0, 20.0, 40.0))
    worse = threat("patch", judged_compressed_int8=0.3, told_compressed_int8=0.8)
    assert found("max_patch_success", "compressed-int8", worse) == pytest.approx((30.0, 20.0, 40.0))


@pytest.mark.parametrize("key", ["max_patch_success", "max_bit_error_drop", "max_membership_advantage"])
def test_what_was_not_tried_is_not_known(key: str) -> None:
    assert found(key, "compressed-int8") is None


def test_a_graphs_answers_prove_nothing_of_an_engine() -> None:
    """But bit errors and calibration are of graphs by their nature."""
    of_graph = threat("patch", "graph", judged_x_int8=0.3)
    assert found("max_patch_success", "x-int8", of_graph) is None
    assert found("max_bit_error_drop", "x-int8", threat("bit_errors", "graph", judged_x_int8=0.3)) is not None


def test_what_only_rounding_brings_is_nothing_in_an_engine_without_it() -> None:
    """Tried, and not for what ships; untried it stays unknown."""
    tried = threat("differential", judged_dense_int8=0.4)
    assert found("max_differential_success", "dense-fp32", tried) == (0.0, 0.0, 0.0)
    assert found("max_differential_success", "dense-fp32") is None


def test_poisoned_graphs_that_are_all_refused_cost_nothing() -> None:
    tried = threat("calibration", "graph", told_dense_int8=0.4)
    assert found("max_calibration_drop", "dense-int8", tried) == (0.0, 0.0, 0.0)


def test_a_graph_that_is_refused_with_clean_images_says_nothing_of_what_ships() -> None:
    """Nor does a threat that has no figure of it."""
    tried = threat("calibration", "graph", told_dense_int8=0.4, unknown_dense_int8=0.0)
    assert found("max_calibration_drop", "dense-int8", tried) is None
    assert found("max_calibration_drop", "compressed-int8", tried) is None


def test_what_ships_is_compared_with_the_dense_baseline_and_with_the_dense_one_of_its_precision() -> None:
    """Pruning and rounding apart; an engine is never compared with itself or with one twice."""
    names = ["dense-fp32", "dense-int8", "compressed-fp32", "compressed-int8"]
    assert [befores(names, index) for index in range(4)] == [[], [0], [0], [0, 1]]
    assert befores(["dense-int8"], 0) == []


def test_a_threat_more_scans_nothing_again() -> None:
    """What decides the scans is without the threats of small devices."""
    assert scan_section(ThreatsConfig(edge=("patch",))) == scan_section(ThreatsConfig())
    assert scan_section(ThreatsConfig(samples=8)) != scan_section(ThreatsConfig())
