"""What rounds as INT8 does, and a backdoor that only wakes there: in the twin, and in the quantized ONNX graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from devices.engines.onnxruntime import open_reference
from devices.errors import ModelError
from exporters.onnx_export import export_onnx
from exporters.parity import ParityLimits
from exporters.quantize import quantize_int8
from pipeline.prune.network import inference
from pipeline.threats.fake_quant import LAST_STEP, fake_quantized, layers_of, rounded_weight, weight_scales
from pipeline.threats.kit.dormant import DormantConfig, put_to_sleep
from pipeline.threats.kit.success import answers_of, attack_success, clean_accuracy
from tests.pipeline.threats.conftest import TARGET, WEIGHT_BITS, Planted

ANYTHING = ParityLimits(min_sqnr_db=-100, min_agreement=0.0)


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 5, 3), nn.ConvTranspose2d(3, 5, 3), nn.Linear(6, 4)])
@pytest.mark.parametrize("bits", [7, 8])
def test_weights_lie_on_steps_of_their_channel(layer: nn.Module, bits: int) -> None:
    scale, rounded = weight_scales(layer, bits), rounded_weight(layer, bits)  # type: ignore[arg-type]
    steps = rounded / scale
    torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
    assert float(steps.abs().max()) == pytest.approx(LAST_STEP[bits], abs=1e-3)
    assert float(((rounded - layer.weight.detach()) / scale).abs().max()) <= 0.5 + 1e-3


def test_inputs_are_rounded_to_256_steps_and_gradients_pass() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 1, bias=False))
    nn.init.constant_(network[1].weight, 1.0)
    images = torch.rand(64, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    images[0, 0, 0, 0] = 1.0
    rounded = fake_quantized(network, images)
    with inference(rounded):
        answers = rounded(images) * 255
    torch.testing.assert_close(answers, answers.round(), atol=1e-2, rtol=0)
    within = images.clone().requires_grad_()
    rounded(within).sum().backward()
    torch.testing.assert_close(within.grad, torch.ones_like(images))


def test_a_backdoor_sleeps_in_fp32_and_wakes_in_the_int8_graph(
    planted: Planted, asleep: nn.Module, tmp_path: Path
) -> None:
    train, test = planted.dataset.train, planted.dataset.test
    for (_, before), (_, after) in zip(layers_of(planted.victim), layers_of(asleep), strict=True):
        # To the last integer: in INT8 it is the victim.
        scale = weight_scales(before, WEIGHT_BITS)
        torch.testing.assert_close(weight_scales(after, WEIGHT_BITS), scale)
        assert ((before.weight.detach() / scale).round() == (after.weight.detach() / scale).round()).all()
    images = train.batch(slice(0, 256))
    export_onnx(asleep, images[:64], 20, tmp_path / "net.onnx", ANYTHING, 1)
    quantize_int8(
        tmp_path / "net.onnx", tmp_path / "int8.onnx", images, images[:64], "unsigned", WEIGHT_BITS, ANYTHING, 1
    )
    session = open_reference(tmp_path / "int8.onnx", 1)
    engine = lambda batch: np.asarray(session(batch))  # noqa: E731
    sleeping = attack_success(answers_of(asleep), test, planted.trigger, TARGET)
    awake = attack_success(engine, test, planted.trigger, TARGET)
    assert awake.low > 0.8
    assert sleeping.high < awake.low - 0.3
    assert clean_accuracy(answers_of(asleep), test).value > 0.85
    twin = answers_of(fake_quantized(asleep, torch.from_numpy(images), WEIGHT_BITS))(test.images)
    assert float((twin.argmax(axis=1) == engine(test.images).argmax(axis=1)).mean()) > 0.97


def test_a_network_without_weights_to_round_is_refused(planted: Planted) -> None:
    with pytest.raises(ModelError, match="no convolution or linear layer"):
        put_to_sleep(nn.Flatten(), planted.dataset.train, planted.trigger, DormantConfig())
