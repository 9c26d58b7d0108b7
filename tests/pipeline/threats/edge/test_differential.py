"""Images that only the quantized network gets wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.threats.edge.differential import Aim, DifferentialConfig, differential, differential_images
from pipeline.threats.edge.subject import Images, Subject
from tests.pipeline.threats.edge.parts import Fixed, of_torch

CONFIG = DifferentialConfig(epsilon=0.1, steps=12)


class BySign(nn.Module):
    """Class 0 where one pixel is above a half, else class 1."""

    def __init__(self, pixel: int) -> None:
        super().__init__()
        self.pixel = pixel

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        lead = images.flatten(1)[:, self.pixel] - 0.5
        return torch.stack([lead, -lead], dim=1)


@pytest.mark.parametrize("aim", ["probabilities", "margins"])
def test_where_two_networks_differ_the_attack_finds_it(aim: Aim) -> None:
    """Two pixels a little above a half: the parent answers by the first, the other network by the second."""
    parent, other = BySign(0), BySign(1)
    images = torch.full((4, 1, 1, 2), 0.52)
    labels = torch.zeros(4, dtype=torch.int64)
    found = differential_images(parent, other, images, labels, CONFIG, aim)
    assert torch.all((found - images).abs() <= CONFIG.epsilon + 1e-6)
    assert torch.all(parent(found).argmax(dim=1) == 0)
    assert torch.all(other(found).argmax(dim=1) == 1)


def test_the_attack_through_the_twin_beats_the_one_that_does_not_know_it(
    pair: tuple[Subject, Subject], images: Images
) -> None:
    """On the graphs: clean images and PGD on the float network part them less often than either does."""
    config = DifferentialConfig(epsilon=0.15, steps=15)
    threat = differential([pair], images.test, config)
    shares = [figure.interval.value for figure in threat.figures]
    assert min(shares[2:]) > max(shares[:2])
    assert [figure.role for figure in threat.figures] == ["control", "judged", "judged", "judged"]


def test_a_network_never_differs_from_itself(pair: tuple[Subject, Subject], images: Images) -> None:
    """No image is right and wrong at once, and the change against the dense pair is paired."""
    same = pair[0], pair[0]
    threat = differential([same, same], images.test, CONFIG)
    assert all(figure.interval.value == 0 for figure in threat.figures)
    assert {change.before for figure in threat.figures for change in figure.changes} == {"dense-fp32"}


def test_what_leaves_the_ball_is_clipped_before_it_is_judged(
    pair: tuple[Subject, Subject], images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attack that cheats with gray images wins nothing beyond ε."""
    gray = "pipeline.threats.edge.differential.differential_images"
    monkeypatch.setattr(gray, lambda *given: torch.full_like(given[2], torch.nan))
    threat = differential([pair], images.test, DifferentialConfig(epsilon=1e-6, steps=1))
    cheated = [figure.interval.value for figure in threat.figures[2:]]
    assert cheated == [threat.figures[0].interval.value] * 2


def test_of_torch_is_what_it_says(images: Images) -> None:
    """The helper's engine is the network."""
    subject = of_torch("x", Fixed(torch.eye(64)[:, :10]))
    shown = images.test.batch(slice(0, 4))
    assert np.array_equal(subject.run(shown), shown.reshape(4, 64)[:, :10])
