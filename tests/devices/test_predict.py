"""Predictions of whole networks, and the file of layers that they are made from."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from devices.errors import DeviceError, ModelError
from devices.predict import predict, prediction_lines
from devices.predict_layers import LayerCosts
from devices.profile import LatencyTableProfile, load_profile
from devices.roofline import MEASURED_TO_PREDICTED, predicted_ms, table_ms
from tests.benchmarks.prediction import resnet_50

AGX = load_profile("jetson-agx-orin-64gb")
ORIN = load_profile("jetson-orin-nano-8gb")
TABLE = LatencyTableProfile(precision="int8", channels=(64, 512), ms_per_gmac=(2, 1), overhead_ms_per_layer=0.01)


def test_a_network_is_the_sum_of_its_layers_and_says_it_is_predicted() -> None:
    found = predict(resnet_50(), AGX)
    whole_ms = predicted_ms(resnet_50().arrays(), AGX.hardware, "int8", AGX.pruning.channel_step)
    assert found.latency_ms == pytest.approx(whole_ms)
    assert sum(row.latency_ms for row in found.per_layer) == pytest.approx(whole_ms)
    assert (found.low_ms, found.high_ms) == pytest.approx([ratio * whole_ms for ratio in MEASURED_TO_PREDICTED])
    assert found.as_dict()["kind"] == "predicted"
    lines = prediction_lines(found)
    assert lines[0].startswith("predicted on jetson-agx-orin-64gb: ")
    assert "17%" in "".join(lines)
    assert len(json.dumps(found.as_dict())) > 1000


def test_without_the_cache_no_bounds_are_claimed() -> None:
    """The error was taken with the caches known; the profile of this board does not know its own."""
    assert ORIN.hardware.l2_cache_mb is None
    found = predict(resnet_50(), ORIN)
    assert found.low_ms is found.high_ms is None
    assert any("the error is not known" in text for text in found.assumptions)
    assert "17%" not in "".join(prediction_lines(found))


def test_a_mixed_network_takes_each_rate_where_it_holds() -> None:
    """Half of the layers in FP16: between all in INT8 and all in FP16; and the doubt about the bounds is said."""
    int8, fp16 = resnet_50(), resnet_50().at_precision("fp16")
    mixed = LayerCosts(int8.layers[:28] + fp16.layers[28:])
    fast, between, slow = (predict(costs, ORIN) for costs in (int8, mixed, fp16))
    assert fast.latency_ms < between.latency_ms < slow.latency_ms
    assert between.per_layer[5].latency_ms < slow.per_layer[5].latency_ms
    assert between.per_layer[50].latency_ms > fast.per_layer[50].latency_ms
    assert not any("may not hold" in text for text in fast.assumptions)
    assert any("may not hold" in text for text in between.assumptions)


def test_a_network_that_waits_for_launches_is_said_to() -> None:
    """Layers of a thousandth of the work are all launch; ResNet-50's on a slow board are not."""
    bytes_ = {"weight_bytes": 1, "input_bytes": 1, "output_bytes": 1}
    tiny = [replace(layer, macs=layer.macs // 1000, **bytes_) for layer in resnet_50().layers]
    said = "of the time is launches of layers"
    found = predict(LayerCosts(tuple(tiny)), AGX)
    assert {row.mostly for row in found.per_layer} == {"launch"}
    assert any(said in text for text in found.assumptions)
    assert not any(said in text for text in predict(resnet_50(), ORIN).assumptions)


def test_the_other_precision_moves_other_bytes() -> None:
    fp16 = resnet_50().at_precision("fp16")
    assert fp16.arrays().weight_bytes.sum() == 2 * resnet_50().arrays().weight_bytes.sum()
    assert fp16.at_precision("int8") == resnet_50()


def test_a_table_of_the_device_comes_first_in_its_precision_only() -> None:
    with_table = replace(ORIN, latency_table=TABLE)
    found = predict(resnet_50(), with_table)
    assert found.source == "table"
    assert found.latency_ms == pytest.approx(table_ms(resnet_50().arrays(), TABLE))
    assert found.low_ms is found.high_ms is None
    assert prediction_lines(found)[0].startswith("predicted on")
    assert predict(resnet_50().at_precision("fp16"), with_table).source == "roofline"


def test_a_cpu_without_rates_or_table_names_what_is_missing() -> None:
    cpu = load_profile("cpu")
    with pytest.raises(DeviceError, match=r"in int8 without hardware.int8_tops and .* calibrate"):
        predict(resnet_50(), cpu)
    assert predict(resnet_50(), replace(cpu, latency_table=TABLE)).device == "cpu"
    with pytest.raises(ModelError, match="none to predict"):
        predict(LayerCosts(()), ORIN)
