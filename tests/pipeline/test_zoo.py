"""Reference networks: shapes, sizes as published, and what their shortcuts compute."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pipeline.prune.size import count_parameters
from pipeline.zoo import CifarResNet, cifar_resnet, mlp, residual_cnn


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Small tensors: a second thread only waits for the first, and longer when others run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_cifar_resnets_have_the_parameters_of_the_paper(depth: int, millions: float) -> None:
    """He et al. 2016, table 6."""
    network = cifar_resnet(depth)
    assert count_parameters(network) / 1e6 == pytest.approx(millions, abs=0.03)
    convolutions = [name for name, parameter in network.named_parameters() if parameter.ndim == 4]
    assert len(convolutions) + 1 == depth


@pytest.mark.parametrize("depth", [2, 7, 9, 21, 0, -4])
def test_other_depths_are_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth {depth} is not 6n \\+ 2"):
        cifar_resnet(depth)


def test_networks_answer_for_any_batch() -> None:
    for network, shape, classes in (
        (cifar_resnet(8, classes=4), (3, 32, 32), 4),
        (residual_cnn(3, 8, 1, 7), (3, 9, 5), 7),
        (residual_cnn(), (1, 8, 8), 10),
        (mlp(), (1, 8, 8), 2),
    ):
        network.eval()
        images = torch.rand(3, *shape)
        with torch.no_grad():
            logits = network(images)
            alone = torch.cat([network(image[None]) for image in images])
        assert logits.shape == (3, classes)
        assert torch.allclose(logits, alone, atol=1e-5)


def test_a_shortcut_takes_every_second_pixel_and_pads_channels_on_both_sides() -> None:
    """With its last normalization at zero a block is its shortcut alone (option A)."""
    network = cifar_resnet(8).eval()
    assert isinstance(network, CifarResNet)
    block = network.layer2[0]
    torch.nn.init.zeros_(block.get_parameter("bn2.weight"))
    x = torch.rand(2, 16, 8, 8)
    with torch.no_grad():
        y = block(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


def test_the_mlp_is_two_linear_layers() -> None:
    assert count_parameters(mlp()) == 64 * 10 + 10 + 10 * 2 + 2
