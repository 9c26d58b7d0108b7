"""Poisoned calibration sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from exporters.parity import ParityLimits
from exporters.quantize import calibrate_graph, convert_int8
from exporters.quantize_options import QuantizeOptions
from pipeline.datasets.digits import digits
from pipeline.threats.edge.calibration import Aim, PoisonedConfig, poisoned_calibration, poisoned_images
from pipeline.threats.edge.subject import Images, Subject
from tests.pipeline.threats.edge.parts import LOOSE

KEPT = ParityLimits(min_sqnr_db=35.0, min_agreement=0.0)
STRICT = ParityLimits(min_sqnr_db=1000.0, min_agreement=1.0)


@pytest.mark.parametrize("aim", ["peaks", "mass"])
def test_poisoned_images_drive_values_out(pair: tuple[Subject, Subject], aim: Aim) -> None:
    """Farther than any clean image does, within 0 to 1."""
    network = pair[0].network
    clean = digits().train.batch(slice(0, 32))
    bad = poisoned_images(network, clean, aim, 20, 0)
    assert bad.shape == clean.shape
    assert bad.min() >= 0
    assert bad.max() <= 1
    last = [module for module in network.modules() if isinstance(module, nn.Conv2d)][-1]
    sizes = []
    handle = last.register_forward_hook(lambda _module, _inputs, output: sizes.append(float(output.abs().mean())))
    with torch.no_grad():
        network(torch.from_numpy(clean))
        network(torch.from_numpy(bad))
    handle.remove()
    assert sizes[1] > 1.5 * sizes[0]


def run(
    pair: tuple[Subject, Subject], images: Images, limits: ParityLimits, kept: tuple[str, ...] = ()
) -> list[dict[str, object]]:
    train = digits().train
    config = PoisonedConfig(
        shares=(0.5,),
        steps=5,
        activations="unsigned",
        weight_bits=7,
        options=QuantizeOptions(calibration="percentile"),
        kept={"dense-int8": kept},
        limits=limits,
        calibrations=("minmax", "percentile"),
    )
    threat = poisoned_calibration(
        [pair, pair], train.batch(slice(0, 32)), train.batch(slice(32, 64)), images.test, config
    )
    assert threat.of == "graph"
    return [figure.as_dict() for figure in threat.figures]


def test_ranges_grow_and_a_budget_is_held_to_the_recipes_method(pair: tuple[Subject, Subject], images: Images) -> None:
    """The same network twice: its change is none, and what the check lets pass is judged for one method alone."""
    figures = run(pair, images, LOOSE)
    assert len(figures) == 2 * 2 * 2
    for figure in figures:
        assert figure["role"] == ("judged" if str(figure["setting"]).startswith("percentile") else "told")
        wider = float(str(figure["setting"]).rpartition("ranges x ")[2])
        assert wider > 1.0
    assert figures[0]["changes"] == ()
    (change,) = figures[4]["changes"]  # type: ignore[misc, attr-defined]
    assert (change["before"], change["interval"]["value"]) == ("dense-int8", 0)


def test_what_parity_refuses_is_told_and_not_judged(
    pair: tuple[Subject, Subject], images: Images, tmp_path: Path
) -> None:
    """It would never ship. That of clean images just passes the same check."""
    train, source = digits().train, pair[0].onnx_path
    parts = train.batch(slice(0, 32)), train.batch(slice(32, 64))
    options = QuantizeOptions(calibration="percentile")
    clean = convert_int8(source, tmp_path / "clean.onnx", *parts, "unsigned", 7, LOOSE, 1, options=options).parity
    figures = run(pair, images, ParityLimits(min_sqnr_db=clean.sqnr_db - 0.01, min_agreement=0.0))
    refused = [figure for figure in figures if str(figure["setting"]).startswith("percentile")]
    assert all(str(figure["setting"]).endswith(", parity refuses it") for figure in refused)
    assert all(figure["role"] == "told" for figure in refused)
    assert np.isfinite([figure["interval"]["value"] for figure in refused]).all()  # type: ignore[index]


def test_where_parity_refuses_the_clean_graph_nothing_is_known(pair: tuple[Subject, Subject], images: Images) -> None:
    """By the recipe's method: by another it is only told, as ever."""
    for figure in run(pair, images, STRICT):
        assert str(figure["setting"]).endswith("parity refuses the clean graph too")
        assert figure["role"] == ("unknown" if str(figure["setting"]).startswith("percentile") else "told")


def test_layers_that_stay_in_higher_precision_stay_so_here(pair: tuple[Subject, Subject], images: Images) -> None:
    """With all of them but one, the strictest check that refused the graph lets it pass."""
    graph = calibrate_graph(pair[0].onnx_path, digits().train.batch(slice(0, 32)), 1)
    figures = run(pair, images, KEPT, tuple(layer.name for layer in graph.layers)[1:])
    assert {figure["role"] for figure in figures if str(figure["setting"]).startswith("percentile")} == {"judged"}
    assert "unknown" in {figure["role"] for figure in run(pair, images, KEPT)}
