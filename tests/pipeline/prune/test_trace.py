"""Tracing: what it notes, and networks whose code does not end, or does what the image says."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn import functional

from devices.errors import ModelError
from pipeline.prune.deadline import OutOfTimeError, deadline
from pipeline.prune.groups import find_groups
from pipeline.prune.trace import trace_network
from tests.pipeline.prune.laws import found
from tests.pipeline.prune.networks import build, images


class Plain(nn.Module):
    """Two layers; subclasses do more."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(192, 6), nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 5)."""
        y: torch.Tensor = self.last(self.between(functional.relu(self.first(x.flatten(1)))))
        return y

    def between(self, x: torch.Tensor) -> torch.Tensor:
        """What comes between them."""
        return x


class Endless(Plain):
    """Never answers, and catches what it can."""

    def between(self, x: torch.Tensor) -> torch.Tensor:
        while True:
            try:
                x = x + 0
            except Exception:  # noqa: BLE001 - such code exists
                continue


class Spinning(Plain):
    """Never answers, without any tensor."""

    def between(self, x: torch.Tensor) -> torch.Tensor:
        while True:
            pass


class SpinningWhenSmall(Plain):
    """Never answers once it has lost a channel."""

    def between(self, x: torch.Tensor) -> torch.Tensor:
        while x.shape[1] < 6:
            pass
        return x


@pytest.mark.parametrize("kind", [Endless, Spinning])
def test_a_network_that_never_answers_is_an_error(kind: type[Plain]) -> None:
    started = time.monotonic()
    with pytest.raises(ModelError, match=r"^model: took more than 0.3 s to run on 2 images. Look for a loop"):
        trace_network(kind(), images(1), limit_s=0.3)
    assert time.monotonic() - started < 60


def test_off_the_main_thread_operations_watch_the_time() -> None:
    said: list[str] = []

    def trace() -> None:
        try:
            trace_network(Endless(), images(1), limit_s=0.3)
        except ModelError as error:
            said.append(error.what)

    thread = threading.Thread(target=trace)
    thread.start()
    thread.join(60)
    assert said == ["took more than 0.3 s to run on 2 images"]


def test_a_group_without_which_it_never_answers_is_left_out() -> None:
    network = SpinningWhenSmall().eval()
    grouping = find_groups(network, trace_network(network, images(1)), images(1), (), limit_s=0.3)
    assert not grouping.groups
    assert "the network takes more than 0.3 s without it" in {item.reason for item in grouping.left_out}


@contextmanager
def alarm(seconds: float) -> Iterator[list[int]]:
    """Somebody else's timer, and how often it rang."""
    rang: list[int] = []
    handler = signal.signal(signal.SIGALRM, lambda number, frame: rang.append(number))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield rang
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def test_a_timer_that_was_set_before_goes_on() -> None:
    with alarm(0.2) as rang:
        with pytest.raises(OutOfTimeError), deadline(0.05):
            time.sleep(5)
        time.sleep(0.4)
    assert rang == [signal.SIGALRM]


class Branching(Plain):
    """Takes another way for bright images."""

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if float(x.sum()) > self.threshold else functional.silu(x)

    threshold = 0.0


def test_a_path_that_depends_on_the_image_is_an_error() -> None:
    network = Branching()
    with torch.no_grad():
        sums = [float(functional.relu(network.first(x.flatten(1))).sum()) for x in (torch.zeros(2, 3, 8, 8), images(2))]
    network.threshold = sum(sums) / 2
    dark = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ModelError, match=r"^model: computes by what is in the image: operation \d+ is .* Replace"):
        trace_network(network, dark)


class Remembering(Plain):
    """Keeps what its first run made of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.kept = nn.Parameter(torch.ones(6)), {}

    def between(self, x: torch.Tensor) -> torch.Tensor:
        if "scale" not in self.kept:
            self.kept["scale"] = self.scale * 2
        y: torch.Tensor = x * self.kept["scale"]
        return y


SHARED: dict[str, torch.Tensor] = {}


class Library(Plain):
    """Keeps what its first run made where all networks find it."""

    def between(self, x: torch.Tensor) -> torch.Tensor:
        if "two" not in SHARED:
            SHARED["two"] = torch.full((1,), 2.0)
        return x * SHARED["two"]


@pytest.mark.parametrize("kind", [Remembering, Library])
def test_what_a_network_keeps_from_its_first_run_does_no_harm(kind: type[Plain]) -> None:
    network = kind().eval()
    grouping = find_groups(network, trace_network(network, images(1)), images(1), ())
    assert [(group.name, group.width) for group in grouping.groups] == [("first.weight", 6)]
    if isinstance(network, Remembering):
        assert not network.kept, "the network itself was never run"


def test_operations_are_listed_with_their_weights_and_costs() -> None:
    _, trace, _ = found("mobile")
    layers = [item for item in trace.operations if item.parameter]
    assert [item.parameter for item in layers] == [
        "stem.0.weight",
        "expand.0.weight",
        "depthwise.0.weight",
        "project.0.weight",
        "head.weight",
    ]
    assert [item.name for item in layers] == ["convolution"] * 4 + ["addmm"]
    assert [item.shape for item in layers[:3]] == [(2, 8, 8, 8), (2, 16, 8, 8), (2, 16, 8, 8)]
    depthwise = layers[2]
    (term,) = depthwise.macs
    assert term.factor == 2 * 64 * 9
    assert [len(labels) for labels in term.dims] == [16]
    assert [None if labels is None else len(labels) for labels in depthwise.dims] == [None, 16, None, None]
    assert trace.macs == tuple(term for item in trace.operations for term in item.macs)


def test_a_trace_of_a_network_in_training_leaves_it_in_training() -> None:
    network = build("residual").train()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    trace_network(network, images(1))
    assert all(module.training for module in network.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
