"""Stages on a board behind a real ssh server: what comes back, what is sent again, and what is left there."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from devices.agent_build import BuildJob
from devices.agent_stage import AttackJob
from devices.attack import attack_engines
from devices.bench_job import BenchJob
from devices.detect import Host
from devices.engine_files import read_info
from devices.engines.ort_options import options_of
from devices.errors import BundleError, DeviceError, StorageError
from devices.fleet import BoardConfig
from devices.latency import LatencyConfig
from devices.measure import MeasurePlan
from devices.profile import load_profile
from devices.remote.board import Board
from devices.remote.lines import result_lines
from devices.robustness import EvaluationSets
from devices.stage import no_progress
from devices.trust.store import UNSIGNED, read_trust
from devices.tune import read_tuned
from exporters.keys import make_key
from exporters.sign import SignConfig, sign_bundle
from tests.devices.parts import write_sets
from tests.devices.remote.conftest import blob_bytes

CPU = load_profile("cpu")
PLAN = MeasurePlan(
    baseline="a", shipped="b", batch_sizes=(1,), latency=LatencyConfig(duration_s=0.05, warmup_s=0.01), processes=1
)


@pytest.fixture
def sets_folder(tmp_path: Path, sets: EvaluationSets) -> Path:
    (tmp_path / "sets").mkdir()
    write_sets(tmp_path / "sets", sets)
    return tmp_path / "sets"


def test_stages_on_a_board_are_those_of_a_host(
    board_config: BoardConfig, tmp_path: Path, engine_folder: Path, sets_folder: Path, sets: EvaluationSets, host: Host
) -> None:
    engines = {"engine a": engine_folder, "engine b": engine_folder}
    with Board(board_config, CPU) as board:
        measured = board.run_stage("measure", PLAN, engines, tmp_path / "measured")
        attacked = board.run_stage(
            "attack", AttackJob(baseline="a"), {**engines, "sets": sets_folder}, tmp_path / "attacked"
        )
    (tmp_path / "here").mkdir()
    names = {"a": engine_folder, "b": engine_folder}
    expected = attack_engines(names, "a", sets, host, tmp_path / "here", no_progress)
    assert (attacked.folder / "replay.json").read_bytes() == (tmp_path / "here" / "replay.json").read_bytes()
    assert set(attacked.metrics) == set(expected.metrics)
    assert set(measured.metrics["engines"]) == {"a", "b"}
    assert sorted(path.name for path in measured.folder.iterdir()) == [
        "latency-a.npy",
        "latency-b.npy",
        "measurements.json",
        "telemetry.json",
    ]
    assert measured.host.machine == host.machine
    assert (measured.other_device, measured.reused, measured.clock.warnings) == (False, False, ())


def test_a_bundle_is_sent_once_and_measured(
    board_config: BoardConfig, deploy: Path, evidence: Path, tmp_path: Path
) -> None:
    cache = Path(board_config.cache)
    with Board(board_config, CPU) as board:
        found = board.bench(deploy, tmp_path / "bench", BenchJob(seconds=0.05, trust=UNSIGNED))
        sent = board._connected().moved_bytes
        replayed = board.attack(deploy, evidence, tmp_path / "attack", UNSIGNED)
        again = board._connected().moved_bytes - sent
    assert found.metrics["latency"]["rounds"] >= 40
    assert found.metrics["bundle"] == str(deploy)
    assert replayed.metrics["worst_case"]["value"] == pytest.approx(13 / 30)
    deployed = sum(path.stat().st_size for path in deploy.rglob("*") if path.is_file())
    assert sent == deployed
    assert again < sent + sum(path.stat().st_size for path in evidence.rglob("*") if path.is_file())
    assert all(path.stat().st_mode & 0o077 == 0 for path in cache.rglob("*") if path.is_dir())
    # What was delivered is not kept.
    assert list((cache / "jobs").iterdir()) == list((cache / "tmp").iterdir()) == []


def test_a_signed_bundle_is_verified_here_and_on_the_board(
    board_config: BoardConfig, deploy: Path, tmp_path: Path
) -> None:
    make_key(tmp_path / "keys", "release", None, date(2099, 1, 1))
    make_key(tmp_path / "keys", "other", None, date(2099, 1, 1))
    sign_bundle(deploy, SignConfig(private_key=tmp_path / "keys" / "release.key"))
    trust, other = (read_trust(tmp_path / "keys" / f"{name}.trust.toml") for name in ("release", "other"))
    with Board(board_config, CPU) as board:
        assert board.bench(deploy, tmp_path / "bench", BenchJob(seconds=0.05, trust=trust)).metrics["latency"]
        with pytest.raises(BundleError, match="not trusted here"):
            board.bench(deploy, tmp_path / "refused", BenchJob(seconds=0.05, trust=other))
        # What comes to the board by another way is refused there too.
        job = BenchJob(seconds=0.05, trust=other)
        with pytest.raises(BundleError, match="not trusted here"):
            board.run_stage("bench", job, {"bundle": deploy}, tmp_path / "refused")


def test_a_bundle_that_does_not_verify_goes_nowhere(board_config: BoardConfig, deploy: Path, tmp_path: Path) -> None:
    (deploy / "labels.json").write_text("[]")
    with Board(board_config, CPU) as board, pytest.raises(BundleError, match="differs from the manifest"):
        board.bench(deploy, tmp_path / "out", BenchJob(seconds=0.05, trust=UNSIGNED))
    assert not Path(board_config.cache).exists()


def test_a_real_3_10_builds_its_own_engine_and_answers(
    board_config: BoardConfig, python310: str, onnx_path: Path, sets: EvaluationSets, tmp_path: Path
) -> None:
    import numpy as np

    from devices.engine_files import read_engine
    from devices.engines.onnxruntime import open_reference

    for name in ("onnx", "images"):
        (tmp_path / name).mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(onnx_path.read_bytes())
    np.save(tmp_path / "images" / "images.npy", sets.images["clean"])
    inputs = {name: tmp_path / name for name in ("onnx", "images")}
    with Board(replace(board_config, python=python310), CPU) as board:
        built = board.run_stage("build", BuildJob(), inputs, tmp_path / "engine")
        measured = board.run_stage(
            "measure", replace(PLAN, shipped="a"), {"engine a": built.folder}, tmp_path / "measured"
        )
    assert built.host.python.startswith("3.10.")
    assert read_engine(built.folder)[1].runtime_version == built.host.runtimes["onnxruntime"]
    answers = np.load(built.folder / "answers-0.npy")
    np.testing.assert_allclose(answers, open_reference(onnx_path, 1)(sets.images["clean"]), rtol=1e-5)
    assert measured.metrics["engines"]["a"]["latency"]["queries"] > 0


def test_an_error_of_the_board_is_that_of_the_stage(
    board_config: BoardConfig, engine_folder: Path, tmp_path: Path
) -> None:
    with Board(board_config, CPU) as board:
        with pytest.raises(BundleError, match=r"^board 'bench': job\.json: inputs: has no 'sets'"):
            board.run_stage("attack", AttackJob(baseline="a"), {"engine a": engine_folder}, tmp_path / "out")
        with pytest.raises(BundleError, match=r"^board 'bench': .*'fly' is not one of build"):
            board.run_stage("fly", None, {}, tmp_path / "out")
        # And the board is there for the next.
        assert board.run_stage(
            "measure", replace(PLAN, shipped="a"), {"engine a": engine_folder}, tmp_path / "out"
        ).metrics["engines"]
    assert list((Path(board_config.cache) / "jobs").iterdir()) == []


@pytest.mark.parametrize("name", ["jetson-agx-orin-64gb", "rtx-4090"])
def test_another_device_is_refused_before_anything_is_sent(
    board_config: BoardConfig, deploy: Path, tmp_path: Path, name: str
) -> None:
    profile = load_profile(name)
    with Board(board_config, profile) as board:
        assert not board.detect().matches
        with pytest.raises(DeviceError, match="--force"):
            board.bench(deploy, tmp_path / "out", BenchJob(seconds=0.05, trust=UNSIGNED))
    assert blob_bytes(Path(board_config.cache)) == {}


def test_a_forced_device_is_told_with_its_result(board_config: BoardConfig, deploy: Path, tmp_path: Path) -> None:
    profile = load_profile("jetson-orin-nano-8gb")
    with Board(board_config, profile, force=True) as board:
        found = board.bench(deploy, tmp_path / "out", BenchJob(seconds=0.05, trust=UNSIGNED))
    assert found.other_device
    assert any("NOT a" in line for line in result_lines("bench", profile, found))
    for mode, told in (("25W", True), ("MODE_15W", False)):
        host = replace(found.host, device_tree_model="NVIDIA Jetson Orin Nano Developer Kit", power_mode=mode)
        lines = result_lines("bench", profile, replace(found, host=host))
        assert any("of power mode 15W, and the board is in 25W; it was not switched" in line for line in lines) == told


def test_clean_leaves_nothing(board_config: BoardConfig, deploy: Path, tmp_path: Path) -> None:
    cache = Path(board_config.cache)
    with Board(board_config, CPU) as board:
        board.bench(deploy, tmp_path / "out", BenchJob(seconds=0.05, trust=UNSIGNED))
        with Board(board_config, CPU) as other:
            other.detect()
            with pytest.raises(StorageError, match=r"board 'bench': .* is in use by another session"):
                board.clean()
        assert board.clean()["removed_bytes"] > 0
        assert list(cache.parent.iterdir()) == []
        # And a new one is made for the next.
        assert board.detect().cache == str(cache)


def test_nothing_is_written_outside_the_cache(board_config: BoardConfig, deploy: Path, tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("home", "scratch")]
    for place in places:
        place.mkdir()
    python = f"env HOME={places[0]} TMPDIR={places[1]} {sys.executable}"
    config = replace(board_config, python=python, cache="~/.cache/espalier")
    with Board(config, CPU) as board:
        assert board.detect().cache == str(places[0] / ".cache" / "espalier")
        board.bench(deploy, tmp_path / "out", BenchJob(seconds=0.05, trust=UNSIGNED))
        board.clean()
    left = [path for place in places for path in place.rglob("*") if not path.is_dir()]
    assert left == []
    assert list(places[1].iterdir()) == []


def test_the_time_limit_ends_a_stage_and_all_below_it(board_config: BoardConfig, deploy: Path, tmp_path: Path) -> None:
    config = replace(board_config, limit_s=0.2)
    with Board(config, CPU) as board:
        with pytest.raises(DeviceError, match=r"board 'bench': job: took longer than its limit of 0\.2 s"):
            board.bench(deploy, tmp_path / "out", BenchJob(seconds=3600.0, trust=UNSIGNED))
        assert board.detect().matches
    assert list((Path(board_config.cache) / "jobs").iterdir()) == []


def test_inputs_that_are_links_are_refused(board_config: BoardConfig, tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    os.symlink("/etc/hostname", tmp_path / "engine" / "engine.json")
    with Board(board_config, CPU) as board, pytest.raises(BundleError, match="is not a plain file"):
        board.run_stage("measure", PLAN, {"engine a": tmp_path / "engine"}, tmp_path / "out")


def test_an_interpreter_in_a_container_is_a_command_of_the_boards_shell(
    board_config: BoardConfig, tmp_path: Path
) -> None:
    """A stand-in for `docker`, to see that every word arrives and the shell fills in what is the board's to know."""
    docker = tmp_path / "docker"
    script = (
        "#!/bin/sh",
        f'echo "$@" | head -c 300 >{tmp_path}/words',
        "until [ $1 = IMAGE ]; do shift; done",
        "shift",
    )
    docker.write_text("\n".join((*script, 'exec "$@"', "")))
    docker.chmod(0o755)
    options = "run -i --rm --uts host --user $(id -u):$(id -g) -v /a:/a IMAGE"
    config = replace(board_config, python=f"{docker} {options} {sys.executable}")
    with Board(config, CPU) as board:
        assert board.detect().libraries[0] == "onnxruntime"
    words = (tmp_path / "words").read_text()
    user = f"--user {os.getuid()}:{os.getgid()}"
    assert words.startswith(f"run -i --rm --uts host {user} -v /a:/a IMAGE {sys.executable} -c ")


def test_a_session_is_tuned_there_and_the_engine_built_with_what_was_found(
    board_config: BoardConfig, onnx_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(onnx_path.read_bytes())
    inputs = {"onnx": tmp_path / "onnx"}
    with Board(board_config, CPU) as board:
        tuned = board.run_stage("tune", LatencyConfig(duration_s=0.02, warmup_s=0.01), inputs, tmp_path / "tuned")
        options = read_tuned(tuned.folder)
        assert tuned.metrics["trials"]
        changed = replace(CPU, engine=replace(CPU.engine, threads=2), session=options.session)
        built = board.run_stage("build", BuildJob(), inputs, tmp_path / "built", profile=changed)
    assert options_of(read_info(built.folder)).session == options.session
    assert read_info(built.folder).threads == 2
