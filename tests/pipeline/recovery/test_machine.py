"""Where a fit runs: what `auto` means, what is refused, and how a batch is shared."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from devices.errors import DeviceError
from pipeline.recipe import FitConfig
from pipeline.recovery import machine
from pipeline.recovery.machine import Machine, Placement, open_machine, place
from tests.pipeline.recovery.examples import fresh, same_bits, state, train


@pytest.mark.parametrize(
    ("gpus", "bf16", "config", "expected"),
    [
        (0, False, {}, ("cpu", "fp32")),
        (0, False, {"precision": "auto"}, ("cpu", "fp32")),
        (0, False, {"precision": "bf16"}, ("cpu", "bf16")),
        (1, True, {}, ("cuda", "fp32")),
        (1, True, {"precision": "auto"}, ("cuda", "bf16")),
        (1, False, {"precision": "auto"}, ("cuda", "fp32")),
        (1, True, {"precision": "auto", "accelerator": "cpu"}, ("cpu", "fp32")),
        (1, True, {"devices": 2}, ("cpu", "fp32")),
        (2, True, {"devices": 2}, ("cuda", "fp32")),
    ],
)
def test_auto_takes_what_is_there(
    monkeypatch: pytest.MonkeyPatch, gpus: int, bf16: bool, config: dict[str, Any], expected: tuple[str, str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    found = place(FitConfig(epochs=1, **config))
    assert (found.accelerator, found.precision) == expected
    assert found.devices == config.get("devices", 1)


def test_gpus_that_are_not_there_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="devices = 1 on accelerator 'cuda', and PyTorch sees 0 here"):
        train(fresh(), accelerator="cuda")


@pytest.mark.parametrize("config", [{"precision": "bf16"}, {"devices": 2, "accelerator": "cpu"}])
def test_without_fabric_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]) -> None:
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    network = fresh()
    with pytest.raises(DeviceError, match=r"needs Lightning Fabric .*. Install it: pip install lightning-fabric"):
        train(network, **config)
    assert same_bits(state(network), state(fresh()))


def test_several_devices_need_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(DeviceError, match=r"devices = 2, and 1 process was started. Start it with torchrun"):
        open_machine(Placement("cpu", "fp32", 2))


@given(st.integers(0, 100), st.integers(1, 9))
def test_shares_make_up_the_batch(count: int, world: int) -> None:
    one = Machine(Placement("cpu", "fp32", 1))
    parts: list[int] = []
    sizes = set()
    for one.rank in range(world):
        one.world = world
        part = range(count)[one.share(count)]
        parts += part
        sizes.add(len(part))
    assert parts == list(range(count))
    assert max(sizes) - min(sizes) <= 1


def test_synchronized_batchnorm_shares_tensors_and_goes_again() -> None:
    """What runs on several GPUs: the layers in between hold the same tensors, and the network's own come back."""
    network = fresh()
    before = state(network)
    own = dict(network.named_modules())
    replaced = machine._synchronize(network)
    assert len(replaced) == 3
    assert all(isinstance(network.get_submodule(name), nn.SyncBatchNorm) for name in ("bn", "blocks.0.bn2"))
    assert list(network.state_dict()) == list(before)
    network.get_submodule("bn").running_mean.fill_(3)  # type: ignore[union-attr, operator]
    with torch.no_grad():
        network.get_parameter("bn.weight").fill_(2)
    for parent, name, norm in replaced:
        setattr(parent, name, norm)
    assert dict(network.named_modules()) == own
    assert float(own["bn"].running_mean[0]) == 3  # type: ignore[index]
    assert own["bn"].weight[0].item() == 2  # type: ignore[index]
