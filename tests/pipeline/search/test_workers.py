"""Trials on Ray: the same study as without it, whatever dies on the way, and nothing left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from devices.errors import DeviceError, ModelError, RecipeError
from pipeline.prune.groups import plan_for
from pipeline.prune.plan import Cut, PruningPlan
from pipeline.search import workers
from pipeline.search.ray_host import kill_session
from pipeline.search.trial import TrialSetup, read_network_files, split_training
from tests.pipeline.search.parts import CONFIG, SLOW, STUDY, run_search, search_inputs, session_of

# As the kernel marks a process that ends.
_ENDING = 0x4
TWO = CONFIG.model_copy(update={"workers": 2})


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """No process, and no folder for Ray's files, outlives a search."""
    folders: list[str] = []
    sessions: set[int] = set()
    make, start = tempfile.mkdtemp, multiprocessing.get_context("spawn").Process.start

    def made(suffix: str | None = None, prefix: str | None = None, dir: str | None = None) -> str:
        folder = make(suffix, prefix, dir)
        if prefix == "esp-":
            folders.append(folder)
        return folder

    def started(process: multiprocessing.process.BaseProcess) -> None:
        start(process)
        sessions.add(process.pid or 0)

    with pytest.MonkeyPatch.context() as patch:
        # By name, and not by what lies in /tmp: other searches may run beside these.
        patch.setattr(tempfile, "mkdtemp", made)
        patch.setattr(multiprocessing.get_context("spawn").Process, "start", started)
        yield
    assert len(folders) >= len(sessions)
    # Whom nobody killed may still end by itself; who was killed takes its time where it is large.
    spared = [found for session in sessions for found in _spared(session)]
    time.sleep(0.5)
    assert [found for session in sessions for found in _spared(session) if found in spared] == []
    deadline = time.monotonic() + 60
    while any(map(session_of, sessions)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [name for session in sessions for name in session_of(session).values()] == []
    assert [folder for folder in folders if Path(folder).exists()] == []


def _spared(leader: int) -> list[tuple[int, str]]:
    """Processes of a session that are neither killed nor ending."""
    found = []
    for pid, name in session_of(leader).items():
        with suppress(OSError):
            flags = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[6])
            pending = Path(f"/proc/{pid}/status").read_text().partition("SigPnd:")[2].split()[0]
            if not flags & _ENDING and not int(pending, 16) & 1 << (signal.SIGKILL - 1):
                found.append((pid, name))
    return found


def _running(name: str) -> list[int]:
    """Processes of the search that is running, by the beginning of their name."""
    (host,) = multiprocessing.active_children()
    return sorted(pid for pid, own in session_of(host.pid or 0).items() if own.startswith(name))


def _setup(folder: Path) -> TrialSetup:
    inputs = search_inputs(folder, SLOW)
    recalibration, validation = split_training(inputs.train, 40, 40, 0)
    return TrialSetup(
        model=inputs.model,
        files=read_network_files(inputs.artifact),
        recalibration=recalibration,
        validation=validation,
        task=inputs.task,
        objective=inputs.objective,
        recalibrate=inputs.recalibrate,
        robust=False,
        seed=0,
    )


def test_two_workers_one_of_which_dies_find_what_one_process_finds(tmp_path: Path) -> None:
    setup, inputs = _setup(tmp_path), search_inputs(tmp_path)
    tasks = [(n, plan_for(inputs.network, inputs.ranked[n % 3].lowest(n))) for n in range(8)]
    with workers.open_evaluation(setup, 1, None) as evaluate:
        expected = dict(evaluate(tasks))
    with workers.open_evaluation(setup, 2, None) as evaluate:
        found: dict[int, dict[str, float]] = {}
        for number, figures in evaluate(tasks):
            found[number] = figures
            if len(found) == 3:
                os.kill(_running("ray::Worker")[0], signal.SIGKILL)
        assert found == expected
        assert dict(evaluate(tasks[:2])) == {number: expected[number] for number in (0, 1)}
        wrong = PruningPlan((Cut("not.there", 0, 8, (0, 1)),))
        with pytest.raises(ModelError, match=r"cuts 'not\.there', which the network lacks"):
            list(evaluate([(8, wrong)]))


def test_a_cluster_that_dies_stops_the_search_which_then_goes_on(tmp_path: Path) -> None:
    """Ray's node is killed at the fourth trial: one sentence, and every trial that was done is kept."""
    inputs = search_inputs(tmp_path, SLOW)

    def kill_node(done: int, total: int, text: str) -> None:
        if done == 4:
            for pid in (*_running("raylet"), *_running("ray::Worker")):
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(DeviceError, match=r"search: stopped after \d+ of 14 trials: .*Run the same command again"):
        run_search(tmp_path, TWO, inputs, kill_node)
    assert not (tmp_path / STUDY).exists()
    result = run_search(tmp_path, CONFIG, inputs)
    assert int(str(result.metrics["trials_run"])) <= CONFIG.trials - 4
    (tmp_path / "one").mkdir()
    run_search(tmp_path / "one", CONFIG, inputs)
    assert (tmp_path / STUDY).read_bytes() == (tmp_path / "one" / STUDY).read_bytes()


def _die(*_: object) -> None:
    os._exit(9)


def test_when_the_process_that_talks_to_ray_dies_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does by itself, without an exception, a minute after Ray's control store is lost."""
    monkeypatch.setattr(workers, "serve", _die)
    with pytest.raises(DeviceError, match=r"after 0 of 14 trials: the process that talks to Ray ended with code 9"):
        run_search(tmp_path, TWO)


def test_a_cluster_that_does_not_answer_is_said(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"search\.address: no Ray cluster answers at 127\.0\.0\.1:1 "):
        run_search(tmp_path, CONFIG.model_copy(update={"address": "127.0.0.1:1"}))


def test_the_process_that_talks_to_ray_needs_no_torch() -> None:
    code = "import sys, pipeline.search.ray_host; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"search\.workers: needs Ray.*\.\[search\]"):
        run_search(tmp_path, TWO)
    run_search(tmp_path)


def test_a_session_that_was_killed_is_gone() -> None:
    """A process with much memory takes its time to end, and may write meanwhile; that it ended here is ours to see."""
    code = "import time; kept = bytearray(b'1') * (1 << 27); print('large', flush=True); time.sleep(600)"
    words = f'{sys.executable} -c "{code}" & {sys.executable} -c "{code}" & wait'
    with subprocess.Popen(["sh", "-c", words], stdout=subprocess.PIPE, start_new_session=True) as leader:
        assert leader.stdout is not None
        assert [leader.stdout.readline() for _ in range(2)] == [b"large\n"] * 2
        assert len(session_of(leader.pid)) == 3
        try:
            kill_session(leader.pid)
            assert session_of(leader.pid) == {}
        finally:
            os.killpg(leader.pid, signal.SIGKILL)
