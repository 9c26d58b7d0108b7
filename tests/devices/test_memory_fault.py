"""A machine without memory left: said as that, on the machine itself and from a board."""

from __future__ import annotations

import errno
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from devices import agent
from devices.agent_errors import error_content, error_of
from devices.errors import DeviceError
from devices.memory_fault import memory_fault
from devices.stage import no_progress
from pipeline import cli
from pipeline.data import Split
from pipeline.recipe import FitConfig, ObjectiveConfig
from pipeline.recovery.fit import fit
from pipeline.threats.scan.inversion import invert
from pipeline.threats.scan.search import SearchConfig

SAID = "memory: too little is free"


@pytest.mark.parametrize(
    "fault",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("numpy.so: failed to map segment from shared object"),
        RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8000000000 bytes."),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_what_is_said_when_memory_ends(fault: BaseException) -> None:
    found = memory_fault(fault)
    assert found is not None
    assert str(found).startswith(SAID)
    told = error_of(error_content(fault), "board 'bench'")
    assert isinstance(told, DeviceError)
    assert str(told).startswith(f"board 'bench': {SAID}")


@pytest.mark.parametrize("fault", [RuntimeError("no room"), OSError(errno.ENOSPC, "No space left"), KeyError("memory")])
def test_another_fault_is_not_taken_for_it(fault: BaseException) -> None:
    assert memory_fault(fault) is None
    assert "internal fault" in error_content(fault)["what"]


def test_training_that_asks_for_too_much_is_told_from_a_network_that_fails() -> None:
    class Greedy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scale * torch.empty(1 << 44).sum() * x.mean(dim=(1, 2, 3))[:, None].repeat(1, 10)

    with pytest.raises(DeviceError, match=SAID):
        invert(Greedy(), torch.zeros(2, 1, 4, 4), 10, SearchConfig(steps=2, starts=1))
    split = Split(np.zeros((4, 1, 4, 4), np.float32), np.zeros(4, np.int64))
    with pytest.raises(DeviceError, match=SAID):
        fit(Greedy(), split, ObjectiveConfig(), FitConfig(epochs=1), 0, 1, no_progress)


def test_an_error_that_says_it_already_stays_as_it_is() -> None:
    said = memory_fault(MemoryError())
    assert said is not None
    assert memory_fault(said) is None
    assert error_content(said)["what"] == said.what


@pytest.mark.parametrize("command", [agent.main, cli.main])
def test_commands_say_so_in_one_line(
    command: Callable[[list[str]], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def detect() -> None:
        raise MemoryError

    monkeypatch.setattr("devices.detect.detect_host", detect)
    words = ["detect"] if command is agent.main else ["devices", "detect"]
    assert command(words) == DeviceError.exit_code
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"device error: {SAID} (MemoryError). Close other programs" in said
