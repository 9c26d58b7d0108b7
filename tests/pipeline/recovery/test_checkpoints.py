"""Checkpoints: a killed fit ends in the same bits, a damaged checkpoint counts as none, a diverged fit keeps one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from devices.errors import ModelError, StorageError
from pipeline.model import load_checkpoint
from tests.pipeline.recovery.examples import few, files, fresh, noisy, same_bits, state, train
from tests.pipeline.recovery.killed import everything

# Of four epochs with four steps each.
EPOCHS = 4


class StoppedError(Exception):
    """Ends a fit from outside."""


def run(
    folder: Path | None, stop_at: int | None = None, epochs: int = EPOCHS, seed: int = 0
) -> dict[str, torch.Tensor]:
    """A fit of a network with dropout; stopped before a step, or to its end. Returns its weights."""
    network = noisy()

    def progress(done: int, total: int, text: str) -> None:
        if done == stop_at:
            raise StoppedError

    train(network, epochs=epochs, ema_decay=0.9, seed=seed, checkpoints=folder, progress=progress)
    return state(network)


def test_a_killed_fit_ends_in_the_same_bits(tmp_path: Path) -> None:
    """Killed by signal 9 in its third epoch, in a process of its own, and taken up here."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.pipeline.recovery.killed", str(tmp_path), "10"],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert files(tmp_path)[-1].startswith("epoch-000002.")
    resumed, resumed_report = everything(tmp_path)
    undisturbed, report = everything(None)
    assert same_bits(state(resumed), state(undisturbed))
    assert (resumed_report.resumed_from_epoch, report.resumed_from_epoch) == (2, 0)
    assert resumed_report.metrics() == report.metrics()
    assert bool((resumed.get_parameter("5.weight")[:, ::3] == 0).all())


@settings(max_examples=12)
@given(st.lists(st.integers(0, 4 * EPOCHS - 1), min_size=1, max_size=3))
def test_wherever_it_stops_and_however_often(tmp_path_factory: pytest.TempPathFactory, stops: list[int]) -> None:
    folder = tmp_path_factory.mktemp("fit")
    for stop in stops:
        # A stop that an earlier run has passed does not come again; the fit is at its end then.
        try:
            run(folder, stop)
        except StoppedError:
            continue
    assert same_bits(run(folder), run(None))


def test_a_finished_fit_is_not_done_again(tmp_path: Path) -> None:
    first = run(tmp_path)
    assert same_bits(run(tmp_path, stop_at=0), first)


def test_the_last_two_are_kept_as_plain_tensors_and_json(tmp_path: Path) -> None:
    run(tmp_path)
    ends = ("json", "training.safetensors", "weights.safetensors")
    assert files(tmp_path) == [f"epoch-{epoch:06}.{end}" for epoch in (3, 4) for end in ends]


@pytest.mark.parametrize(("lost", "resumed"), [((3,), 2), ((2, 3), 0)])
@pytest.mark.parametrize("end", ["json", "training.safetensors", "weights.safetensors"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "empty"])
def test_a_damaged_checkpoint_counts_as_none(
    tmp_path: Path, end: str, damage: str, lost: tuple[int, ...], resumed: int
) -> None:
    """The one before is taken; when that is damaged too, the start. The end is the same."""
    with pytest.raises(StoppedError):
        run(tmp_path, stop_at=13)
    for epoch in lost:
        path = tmp_path / f"epoch-{epoch:06}.{end}"
        content = path.read_bytes()
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.unlink()
        if damage != "gone":
            path.write_bytes({"flipped": flipped, "cut": content[:middle], "empty": b""}[damage])
    network = noisy()
    report = train(network, epochs=EPOCHS, ema_decay=0.9, checkpoints=tmp_path)
    assert report.resumed_from_epoch == resumed
    assert same_bits(state(network), run(None))


@pytest.mark.parametrize("other", ["seed", "epochs", "network"])
def test_checkpoints_of_another_fit_count_as_none(tmp_path: Path, other: str) -> None:
    network = noisy()
    if other == "network":
        with torch.no_grad():
            network.get_parameter("5.bias")[0] += 1e-3
        train(network, epochs=EPOCHS, ema_decay=0.9, checkpoints=tmp_path)
    else:
        run(tmp_path, **{other: 6})
    assert same_bits(run(tmp_path), run(None))
    assert files(tmp_path)[-1] == "epoch-000004.weights.safetensors"


def test_what_a_killed_write_leaves_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".epoch-000001.json.x1y2").write_text("half")
    run(tmp_path)
    assert not [name for name in files(tmp_path) if name.startswith(".")]


def test_a_fit_that_diverges_keeps_the_last_good_state(tmp_path: Path) -> None:
    """The loss is NaN from the second step of the third epoch on; what is kept is the state after the second."""
    calls = 0

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return functional.cross_entropy(outputs, targets) * (1 if calls < 10 else torch.nan)

    folder = tmp_path / "here"
    with pytest.raises(ModelError) as refused:
        train(fresh(), epochs=4, loss=loss, checkpoints=folder)
    weights = folder / "epoch-000002.weights.safetensors"
    assert str(refused.value) == (
        "training: the loss is nan in epoch 3, step 2. Lower learning_rate. "
        f"The state after epoch 2 is kept in {weights}."
    )
    kept, expected = fresh(), fresh()
    load_checkpoint(kept, weights)

    def stop(done: int, total: int, text: str) -> None:
        if done == 8:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(expected, epochs=4, progress=stop)
    assert same_bits(state(kept), state(expected))


def test_a_fit_that_diverges_at_once_has_nothing_to_keep(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"Lower learning_rate. No epoch had ended, so nothing is kept.$"):
        train(fresh(), learning_rate=1e30, checkpoints=tmp_path)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        train(fresh(), split=few(50), checkpoints=tmp_path / "file" / "below")
