"""The search as a stage: one study for one set of inputs, however it was stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from devices.errors import DeviceError, ModelError, RecipeError, StorageError
from pipeline.prune.allocate import Snapping
from pipeline.prune.budget import size_budget
from pipeline.prune.groups import Unit, plan_for
from pipeline.prune.network import copy_network
from pipeline.prune.replay import apply_plan
from pipeline.recipe import PruneConfig
from pipeline.search.front import dominates
from pipeline.search.space import units_for
from pipeline.search.study import choose_point, read_study
from pipeline.steps.chosen import chosen_trial
from tests.pipeline.search.parts import CONFIG, STUDY, run_search, search_inputs

ROOT = Path(__file__).parent.parent.parent.parent


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run_search(folder)
    return folder


def _study(folder: Path) -> Any:
    return json.loads((folder / STUDY).read_text())


def test_it_writes_every_trial_and_its_front(undisturbed: Path) -> None:
    study = _study(undisturbed)
    trials = study["trials"]
    assert [trial["name"] for trial in trials] == [f"trial-{number}" for number in range(CONFIG.trials)]
    assert {trial["origin"] for trial in trials} == {"uniform", "random", "genetic"}
    assert set(trials[0]["keep"].values()) == {1.0}
    inputs = search_inputs(undisturbed)
    assert trials[0]["metrics"]["macs"] == inputs.macs_without([])
    assert trials[0]["metrics"]["size_bytes"] == size_budget(inputs.network, 1, "int8").dense
    widths = {item.group.name: item.group.width for item in inputs.ranked}
    costs = [(-trial["metrics"]["accuracy"], trial["metrics"]["macs"]) for trial in trials]
    for trial, own in zip(trials, costs, strict=True):
        assert trial["keep"] == {name: count / widths[name] for name, count in trial["widths"].items()}
        assert min(trial["keep"].values()) >= CONFIG.min_keep
        if trial["on_front"]:
            assert not any(dominates(other, own) for other in costs)
    assert 0 < study["hypervolume"] < 1


def test_every_point_comes_back_by_its_name(undisturbed: Path) -> None:
    study = read_study(undisturbed)
    for trial in study.trials:
        assert choose_point(study, trial.name) == trial


def test_metrics_say_how_far_it_went(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    result = run_search(tmp_path, progress=lambda done, total, text: told.append((done, total, text)))
    metrics: Any = json.loads(json.dumps(result.metrics))
    assert (metrics["trials"], metrics["trials_run"]) == (14, 14)
    assert metrics["front"] == sum(trial["on_front"] for trial in _study(tmp_path)["trials"])
    assert metrics["validation_samples"] == 60
    assert [(done, total) for done, total, _ in told] == [(number + 1, 14) for number in range(14)]
    assert told[3][2].startswith("trial-3: accuracy 0.")


def test_killed_and_run_again_it_gives_the_same_study(undisturbed: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.pipeline.search.parts", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(5):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / STUDY).exists()
    result = run_search(tmp_path)
    assert (tmp_path / STUDY).read_bytes() == (undisturbed / STUDY).read_bytes()
    # What was done is not done again; the kill may come after more trials than were read.
    assert 0 < int(str(result.metrics["trials_run"])) <= CONFIG.trials - 5


def test_a_journal_cut_anywhere_gives_the_same_study(undisturbed: Path, tmp_path: Path) -> None:
    whole = (undisturbed / "journal.jsonl").read_bytes()
    for cut in range(0, len(whole), 311):
        (tmp_path / "journal.jsonl").write_bytes(whole[:cut])
        run_search(tmp_path)
        assert (tmp_path / STUDY).read_bytes() == (undisturbed / STUDY).read_bytes()


def test_more_trials_go_on_from_fewer(undisturbed: Path, tmp_path: Path) -> None:
    run_search(tmp_path, CONFIG.model_copy(update={"trials": 8}))
    result = run_search(tmp_path)
    assert result.metrics["trials_run"] == CONFIG.trials - 8
    assert (tmp_path / STUDY).read_bytes() == (undisturbed / STUDY).read_bytes()


def test_another_seed_is_another_search(undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_bytes((undisturbed / "journal.jsonl").read_bytes())
    with pytest.raises(StorageError, match="journal of another search"):
        run_search(tmp_path, inputs=search_inputs(tmp_path, seed=1))


def test_what_is_measured_is_measured_once_alone_and_kept(tmp_path: Path) -> None:
    """A measurement would never come out twice the same; so each is kept, and the study follows from those kept."""
    events: list[str] = []
    stop_at = 9

    def measure(removed: Sequence[Unit]) -> float:
        events.append("begin")
        if events.count("begin") == stop_at:
            raise KeyboardInterrupt
        events.append("end")
        return 1.0 / (1 + len(removed)) + len(events) * 1e-6

    config = CONFIG.model_copy(update={"objectives": ("accuracy", "latency_ms")})
    inputs = search_inputs(tmp_path, measures={"latency_ms": measure})
    with pytest.raises(KeyboardInterrupt):
        run_search(tmp_path, config, inputs)
    assert not (tmp_path / STUDY).exists()
    stop_at = 0
    result = run_search(tmp_path, config, inputs)
    assert result.metrics["trials_run"] == CONFIG.trials - 12
    assert events.count("end") == CONFIG.trials
    assert all(a != b for a, b in zip(events[:16:2], events[1:16:2], strict=True))
    figures = [trial["metrics"]["latency_ms"] for trial in _study(tmp_path)["trials"]]
    assert len(set(figures)) == CONFIG.trials
    before = (tmp_path / STUDY).read_bytes()
    run_search(tmp_path, config, inputs)
    assert (tmp_path / STUDY).read_bytes() == before
    assert events.count("end") == CONFIG.trials


def test_a_measurement_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"objectives": ("accuracy", "latency_ms")})
    inputs = search_inputs(tmp_path, measures={"latency_ms": lambda removed: float("nan")})
    with pytest.raises(DeviceError, match="'latency_ms' of trial-0 was measured as nan"):
        run_search(tmp_path, config, inputs)


def test_three_objectives_and_any_figure(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"objectives": ("accuracy", "parameters", "energy_mj"), "trials": 8})
    inputs = search_inputs(tmp_path, measures={"energy_mj": lambda removed: 1000.0 - len(removed)})
    run_search(tmp_path, config, inputs)
    study = _study(tmp_path)
    assert study["hypervolume"] is None
    assert study["trials"][0]["metrics"]["energy_mj"] == 1000.0


def test_bytes_are_counted_in_the_precision_that_ships_as_pruning_counts_them(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"objectives": ("accuracy", "size_bytes"), "trials": 6})
    inputs = search_inputs(tmp_path)
    run_search(tmp_path, config, inputs)
    study = read_study(tmp_path)
    for trial in study.trials:
        smaller = copy_network(inputs.network)
        apply_plan(smaller, plan_for(inputs.network, units_for(trial.widths, inputs.ranked)))
        assert trial.metrics["size_bytes"] == size_budget(smaller, 1, "int8").dense
    assert _study(tmp_path)["hypervolume"] > 0
    most = sorted(trial.metrics["size_bytes"] for trial in study.trials)[2]
    taken = chosen_trial(PruneConfig(target_size_bytes=int(most)), "nearest", tmp_path, 0, 0)
    within = [trial for trial in study.trials if trial.metrics["size_bytes"] <= most]
    assert taken.metrics["accuracy"] == max(trial.metrics["accuracy"] for trial in within)
    assert taken in within
    # Of the same trials in another precision there is no use.
    with pytest.raises(StorageError, match="journal of another search"):
        run_search(tmp_path, config, replace(inputs, precision="fp32"))


def test_a_small_space_is_searched_whole_and_then_it_ends(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"trials": 64})
    inputs = replace(search_inputs(tmp_path), snapping=Snapping(channel_step=4))
    result = run_search(tmp_path, config, inputs)
    assert result.metrics["trials"] == result.metrics["points"] == 2 ** len(inputs.ranked)


def test_bad_inputs_are_said_before_anything_runs(tmp_path: Path) -> None:
    inputs = search_inputs(tmp_path)
    wrong = CONFIG.model_copy(update={"objectives": ("accuracy", "latency_ms")})
    with pytest.raises(RecipeError, match=r"search\.objectives: 'latency_ms' cannot be measured"):
        run_search(tmp_path, wrong, inputs)
    whole = replace(inputs, snapping=Snapping(channel_step=1, min_channels=9))
    with pytest.raises(ModelError, match="no group has a choice of widths"):
        run_search(tmp_path, inputs=whole)
    assert not (tmp_path / "journal.jsonl").exists()
