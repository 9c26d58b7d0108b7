"""The order in which foretold latency puts pruned networks, on every device that has rates: by work, and by steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from devices.predict_layers import LayerCosts
from devices.profile import load_profile, profile_names
from devices.roofline import Layers, layer_seconds, machine_of, missing_rates, predicted_ms, tera_per_s
from tests.benchmarks.prediction import resnet_50

_RATED = [name for name in profile_names() if not missing_rates(load_profile(name).hardware, "int8")]


def _narrower(share: float, step: int = 32, beyond: int = 0) -> Layers:
    """ResNet-50 with this share of the channels inside its blocks, in steps, and so many channels beyond the step."""

    def kept(channels: int) -> int:
        return min(channels, int(np.ceil(share * channels / step)) * step + beyond)

    found = []
    for layer in resnet_50().layers:
        _, _, kind = layer.name.partition(".")
        inner_in = kept(layer.in_channels) if kind.endswith(("conv", "expand")) else layer.in_channels
        inner_out = kept(layer.out_channels) if kind.endswith(("reduce", "conv")) else layer.out_channels
        into, out = (
            inner / max(outer, 1) for inner, outer in ((inner_in, layer.in_channels), (inner_out, layer.out_channels))
        )
        found.append(
            replace(
                layer,
                in_channels=inner_in,
                out_channels=inner_out,
                macs=round(layer.macs * into * out) if layer.macs else 0,
                weight_bytes=round(layer.weight_bytes * into * out) if layer.macs else 0,
                input_bytes=round(layer.input_bytes * into) if inner_in != layer.in_channels else layer.input_bytes,
                output_bytes=round(layer.output_bytes * out) if inner_out != layer.out_channels else layer.output_bytes,
            )
        )
    return LayerCosts(tuple(found)).arrays()


@pytest.mark.parametrize("device", _RATED)
def test_pruned_networks_are_ranked_by_their_work_and_their_steps(device: str) -> None:
    """Dense, half, a quarter of the channels; and a network off the step, which computes as one of the next step."""
    profile = load_profile(device)
    step = profile.pruning.channel_step
    dense, half, quarter = (_narrower(share, step) for share in (1.0, 0.5, 0.25))
    assert dense.macs.sum() == resnet_50().arrays().macs.sum()
    assert dense.macs.sum() > half.macs.sum() > quarter.macs.sum()
    times = [predicted_ms(each, profile.hardware, "int8", step) for each in (dense, half, quarter)]
    assert times == sorted(times, reverse=True)
    assert times[2] < times[1] < times[0]
    # One channel beyond the step: next to the same work, and computed as a whole step more.
    off, next_step = _narrower(0.5, step, 1), _narrower(0.5, step, step)
    assert half.macs.sum() < off.macs.sum() < next_step.macs.sum()
    gain_on, gain_off = (times[0] - predicted_ms(each, profile.hardware, "int8", step) for each in (half, off))
    assert gain_off < gain_on
    saved_on, saved_off = (dense.macs.sum() - each.macs.sum() for each in (half, off))
    assert gain_off / saved_off < 0.98 * gain_on / saved_on

    def compute_of(layers: Layers) -> float:
        machine = machine_of(profile.hardware)
        rate = tera_per_s(profile.hardware, "int8")
        return float(layer_seconds(layers, rate, machine, step).compute.sum())

    assert compute_of(off) == pytest.approx(compute_of(next_step), rel=1e-3)
