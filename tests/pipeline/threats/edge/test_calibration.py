"""Poisoned calibration sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from exporters.parity import ParityLimits
from exporters.quantize_options import QuantizeOptions
from pipeline.datasets.digits import digits
from pipeline.threats.edge.calibration import Aim, PoisonedConfig, poisoned_calibration, poisoned_images
from pipeline.threats.edge.subject import Images, Subject
from tests.pipeline.threats.edge.parts import LOOSE

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


def run(pair: tuple[Subject, Subject], images: Images, limits: ParityLimits) -> list[dict[str, object]]:
    train = digits().train
    config = PoisonedConfig(
        shares=(0.5,),
        steps=5,
        activations="unsigned",
        weight_bits=7,
        options=QuantizeOptions(calibration="percentile"),
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


def test_what_parity_refuses_is_told_and_not_judged(pair: tuple[Subject, Subject], images: Images) -> None:
    """It would never ship."""
    figures = run(pair, images, STRICT)
    assert all(figure["role"] == "told" for figure in figures)
    assert all(str(figure["setting"]).endswith("parity refuses it") for figure in figures)
    assert np.isfinite([figure["interval"]["value"] for figure in figures]).all()  # type: ignore[index]
