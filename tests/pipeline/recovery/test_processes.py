"""Several processes: the same network as one gives, their errors here, and none left over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from devices.errors import DeviceError, ModelError, RecipeError
from devices.stage import no_progress
from pipeline.data import Dataset
from pipeline.model import WEIGHTS_FILE, build_network, save_network
from pipeline.recipe import DataConfig, DistillConfig, FitConfig, ModelConfig, ObjectiveConfig, PruneConfig, Recipe
from pipeline.recovery import fit as fit_module
from pipeline.recovery import launch
from pipeline.recovery.job import FitJob, read_job
from pipeline.recovery.launch import recover
from pipeline.recovery.machine import Machine, Placement
from tests.pipeline.recovery import fake_worker
from tests.pipeline.recovery.examples import all_digits, few, files, fresh, train

pytest.importorskip("lightning_fabric")

ROOT = Path(__file__).parents[3]
HERE = "tests.pipeline.recovery.test_processes"


def plain_cnn(width: int = 6) -> nn.Module:
    """Without BatchNorm, which normalizes by one process's share on CPUs; with a parameter that gets no gradient."""
    network = nn.Sequential(
        nn.Conv2d(1, width, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(width * 16, 10)
    )
    network.register_parameter("idle", nn.Parameter(torch.ones(3)))
    return network


def ninety() -> Dataset:
    """The first ninety training images of the digits."""
    whole = all_digits()
    return Dataset(few(90), whole.test, whole.class_names)


def job_in(folder: Path, devices: int) -> FitJob:
    """Adversarial recovery of a small network, distilled, on 90 digits in batches of unequal shares."""
    recipe = Recipe(
        name="example",
        threads=1,
        model=ModelConfig(factory=f"{HERE}:plain_cnn", args={}),
        data=DataConfig(factory=f"{HERE}:ninety", args={}),
        objective=ObjectiveConfig(kind="adversarial"),
        train=FitConfig(epochs=1),
        prune=PruneConfig(target_macs=0.5, keep={}),
        finetune=FitConfig(epochs=1),
        distill=DistillConfig(weight=0.2, features=("0",)),
    )
    network = build_network(recipe.model, 0)
    save_network(network, None, folder / "student")
    save_network(build_network(recipe.model, 1), None, folder / "teacher")
    config = {
        "epochs": 2,
        "batch_size": 31,
        "augment": "crop_flip",
        "ema_decay": 0.5,
        "validation_share": 0.3,
        "patience": 2,
        "devices": devices,
        "accelerator": "cpu",
    }
    return FitJob(
        recipe=recipe,
        config=FitConfig(**config),
        seed=3,
        student=folder / "student",
        teacher=folder / "teacher",
        output=folder / f"output{devices}",
        checkpoints=folder / f"checkpoints{devices}",
    )


def test_two_processes_give_the_network_of_one(tmp_path: Path) -> None:
    """Sums of gradients are rounded in another order: weights agree to 1e-5. The last checkpoint is theirs too."""
    seen: list[tuple[int, int, str]] = []
    reports = [recover(job_in(tmp_path, 1), no_progress), recover(job_in(tmp_path, 2), lambda *told: seen.append(told))]
    one, two = (load_file(tmp_path / f"output{count}" / WEIGHTS_FILE) for count in (1, 2))
    start = load_file(tmp_path / "student" / WEIGHTS_FILE)
    assert one.keys() == two.keys() == start.keys()
    for name, value in one.items():
        assert torch.allclose(two[name], value, rtol=0, atol=1e-5), name
    # Far from where it began, but for the parameter that nothing depends on.
    assert all(float((one[name] - start[name]).abs().max()) > 1e-3 for name in one if name != "idle")
    assert torch.equal(two["idle"], start["idle"])
    assert [report.devices for report in reports] == [1, 2]
    assert reports[1].loss_by_epoch == pytest.approx(reports[0].loss_by_epoch, rel=1e-5)
    assert reports[1].validation_accuracy_by_epoch == pytest.approx(reports[0].validation_accuracy_by_epoch)
    assert seen == [(step, 6, f"epoch {step // 3 + 1} of 2") for step in range(6)]
    assert files(tmp_path / "checkpoints2") == files(tmp_path / "checkpoints1") != []
    assert files(tmp_path / "output2") == [WEIGHTS_FILE]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Processes that load no network; where they say who they are."""
    monkeypatch.setattr(launch, "worker", fake_worker)
    monkeypatch.setenv("ESPALIER_TEST_FOLDER", str(tmp_path))
    return tmp_path


def test_an_error_of_one_process_ends_all_and_is_raised_here(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPALIER_TEST_WHAT", "refuses")
    seen: list[tuple[int, int, str]] = []
    with pytest.raises(ModelError, match=r"^training: the loss is nan in epoch 2, step 1. Lower it.$"):
        recover(job_in(fake, 2), lambda *told: seen.append(told))
    assert seen == [(1, 2, "epoch 1 of 2")]
    assert_gone(fake)


def test_a_process_that_dies_is_quoted(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPALIER_TEST_WHAT", "dies")
    said = r"training: a process ended \(killed by signal 9\): espalier-fit-\w+ fills the memory. .* lower batch_size"
    with pytest.raises(DeviceError, match=said):
        recover(job_in(fake, 2), no_progress)
    assert_gone(fake)


def test_none_outlives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    """By signal 9, so that it cannot end them itself."""
    job_in(tmp_path, 2).write(tmp_path / "job.json")
    code = (
        "from pathlib import Path\nfrom pipeline.recovery import launch\n"
        "from pipeline.recovery.job import read_job\nfrom tests.pipeline.recovery import fake_worker\n"
        "launch.worker = fake_worker\n"
        f"launch.recover(read_job(Path({str(tmp_path / 'job.json')!r})), print)"
    )
    # Its own folder of temporary files, which a killed process cannot remove.
    told = {"ESPALIER_TEST_FOLDER": str(tmp_path), "ESPALIER_TEST_WHAT": "waits", "TMPDIR": str(tmp_path)}
    environment = os.environ | told
    supervisor = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment)
    try:
        wait_for(lambda: all((tmp_path / f"pid{rank}").exists() for rank in (0, 1)), 100)
        assert not gone(tmp_path, 0)
        assert not gone(tmp_path, 1)
    finally:
        supervisor.kill()
        supervisor.wait()
    assert_gone(tmp_path)


def gone(folder: Path, rank: int) -> bool:
    """Whether a process that wrote its number down has ended."""
    path = Path("/proc") / (folder / f"pid{rank}").read_text() / "stat"
    try:
        # One that has ended and that nobody asked for is a zombie, Z.
        return path.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def assert_gone(folder: Path) -> None:
    """Within a while: they see the end of what they read."""
    wait_for(lambda: gone(folder, 0) and gone(folder, 1), 30)


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    """Return once it holds; fail when it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_jobs_come_back_from_their_file(tmp_path: Path) -> None:
    job = job_in(tmp_path, 2)
    job.write(tmp_path / "job.json")
    assert read_job(tmp_path / "job.json") == job


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "other"}, "is no fit of format"),
        ({"seed": "many"}, "is malformed"),
        ({"config": {"epochs": 0}}, "is malformed"),
    ],
)
def test_jobs_that_are_none_are_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = tmp_path / "job.json"
    job_in(tmp_path, 2).write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RecipeError, match=says):
        read_job(path)


def test_batches_too_small_for_the_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    two = Machine(Placement("cpu", "fp32", 2))
    two.world = 2
    monkeypatch.setattr(fit_module, "open_machine", lambda placement: two)
    with pytest.raises(RecipeError, match=r"batch_size: 4 makes batches of 3 of 50 images, for 2 processes"):
        train(fresh(), split=few(50), batch_size=4, devices=2, accelerator="cpu")
