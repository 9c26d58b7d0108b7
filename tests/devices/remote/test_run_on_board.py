"""`espalier run` on a board behind a real ssh server: what is made there, cut, killed and resumed; and `matrix`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import devices
from devices.bundle import open_bundle
from devices.errors import BundleError, DeviceError, RecipeError
from devices.fleet import BoardConfig
from devices.remote import transfer
from devices.trust.store import UNSIGNED, Trust
from exporters.keys import make_key
from pipeline import progress as progress_module
from pipeline.cli import main
from tests import drill
from tests.devices.remote.conftest import processes_of, wait_until_none
from tests.devices.remote.sshd import Server
from tests.devices.remote.test_bench_command import fleet_file

FEW = (
    "--set",
    "measure.processes=1",
    "--set",
    'measure.scenarios=["single_stream"]',
    "--set",
    "measure.scenario_s=0.1",
)
FEW += ("--set", "measure.sustained_s=3", "--set", 'measure.power_mode="MAXN"')


@dataclass(frozen=True)
class Ran:
    """A run on a board that was killed while it measured, and run again."""

    store: Path
    out: Path
    fleet: Path
    cache: Path
    left_running: list[int]
    clients_left: list[int]
    again: subprocess.CompletedProcess[str]


def clients_of(server: Server) -> list[int]:
    """ssh's own processes on this side."""
    found, config = [], str(server.folder / "ssh_config").encode()
    for folder in Path("/proc").iterdir():
        # Not a process, or one that ended meanwhile.
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes()
            if folder.name.isdecimal() and config in words and b"ssh" in words.split(b"\0")[0]:
                found.append(int(folder.name))
    return found


def wait_for_clients(server: Server) -> list[int]:
    """Those that are still there after a while. Each ends only after what it started there."""
    until = time.monotonic() + 60
    while (found := clients_of(server)) and time.monotonic() < until:
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def ran(drilled: tuple[Path, Path], server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    base = tmp_path_factory.mktemp("on-board")
    store, out, cache = base / "store", base / "run", base / "cache"
    shutil.copytree(drilled[0], store)
    options = {"python": sys.executable, "cache": str(cache), "ssh_options": server.ssh_options}
    fleet = fleet_file(BoardConfig(name="bench", host="board", device="cpu", **options), base)  # type: ignore[arg-type]
    # So long that it does not end by itself while its end is waited for; what comes before is the same.
    lasting = ("--set", "measure.sustained_s=600")
    killed = drill.start(store, out, "--fleet", str(fleet), "--board", "bench", *FEW, *lasting)
    until = time.monotonic() + 600
    try:
        while not list((store / "tmp").glob("measure-*")) or not processes_of(cache, b"\0stage\0"):
            assert killed.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        killed.kill()
        killed.wait()
    left, clients = wait_until_none(cache), wait_for_clients(server)
    again = drill.run(store, out, "--fleet", str(fleet), "--board", "bench", *FEW)
    yield Ran(store, out, fleet, cache, left, clients, again)
    assert wait_until_none(cache) == []


def test_a_run_that_was_killed_leaves_nothing_running_and_goes_on(ran: Ran) -> None:
    assert (ran.left_running, ran.clients_left) == ([], [])
    assert ran.again.returncode == 0, ran.again.stderr
    steps = {line[8:].split()[0]: line for line in ran.again.stderr.splitlines() if line.startswith("[")}
    assert all(steps[stage].endswith("stored") for stage in ("train", "quantize", "build", "craft"))
    assert not steps["measure"].endswith("stored")


def test_what_the_board_built_is_what_ships(ran: Ran) -> None:
    bundle = open_bundle(ran.out / "deploy", "deploy", UNSIGNED)
    (built,) = (ran.store / "build").glob(f"{bundle.manifest['stages']['engine compressed-int8']['key']}/engine.onnx")
    told = json.loads((built.parent / "result.json").read_text())
    assert bundle.read("engine/engine.onnx") == built.read_bytes()
    assert told["metrics"]["board"]["seconds"] > 0
    assert told["metrics"]["parity"]["sqnr_db"] > 25
    # The answers came home to be compared, and are no part of the engine.
    assert sorted(told["files"]) == ["engine.json", "engine.onnx"]
    classify = devices.load(ran.out / "deploy", allow_unsigned=True)
    assert classify(np.zeros((8, 8), dtype=np.uint8)).label in classify.labels  # type: ignore[union-attr]


def test_what_the_board_built_is_signed_here_and_verified_there(ran: Ran, tmp_path: Path) -> None:
    """The key stays here; the board verifies before it measures, and a byte that changed in between goes nowhere."""
    trusted = make_key(tmp_path / "keys", "release", None, date(2099, 1, 1))
    run = Path(shutil.copytree(ran.out, tmp_path / "run"))
    assert main(["sign", str(run), "--key", str(tmp_path / "keys" / "release.key")]) == 0
    signer = open_bundle(run / "deploy", "deploy", Trust(keys=(trusted,))).signer
    assert signer is not None
    assert signer.key_id == trusted.key_id
    assert main(["verify", str(run), "--explain", "--trust", str(tmp_path / "keys" / "release.trust.toml")]) == 0
    fleet = ("--fleet", str(ran.fleet), "--board", "bench", "--trust", str(tmp_path / "keys" / "release.trust.toml"))
    bench = ["bench", str(run / "deploy"), *fleet, "--seconds", "0.05"]
    assert main(bench) == 0
    engine = run / "deploy" / "engine" / "engine.onnx"
    content = bytearray(engine.read_bytes())
    content[len(content) // 2] ^= 1
    engine.write_bytes(content)
    assert main(bench) == BundleError.exit_code


def test_the_report_names_the_board_and_what_was_not_known_of_it(ran: Ran) -> None:
    report = json.loads((ran.out / "report.json").read_text())
    assert report["board"] == {"name": "bench", "notes": [], "other_device": False}
    shipped = next(engine for engine in report["engines"] if engine["name"] == report["shipped"])
    assert [row["scenario"] for row in shipped["scenarios"]] == ["single_stream"]
    assert len(shipped["sustained"]["windows"]) >= 2
    assert shipped["host_costs"]["preprocess"]["p50_ms"]["value"] > 0
    assert "--board bench" in report["commands"][0]["command"]
    asked = [finding["text"] for finding in report["telemetry"]["findings"] if finding["kind"] == "power_mode"]
    assert len(asked) == 1
    assert f"! {asked[0]}" in ran.again.stdout
    assert "measured on board 'bench'" in ran.again.stdout
    page = (ran.out / "report.html").read_text()
    assert all(text in page for text in ("bench, over ssh", asked[0], "scenario single stream", "preprocessing of"))
    assert all(f"not known: {why}" in page for why in report["telemetry"]["absent"].values())


def test_nothing_is_made_twice_and_a_cut_connection_is_made_again(
    ran: Ran, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One cut in the middle of what is on its way there, one while engines are attacked."""
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 4096)
    cuts: list[str] = []
    real = progress_module.ProgressPrinter.started

    def started(self: Any, number: int, total: int, node: Any) -> Any:
        told = real(self, number, total, node)

        def progress(done: int, units: int, text: str) -> None:
            told(done, units, text)
            moment = "sending" if text == "sending" else "working"
            if node.stage == "attack" and moment not in cuts and (moment == "working" or done > units // 2):
                cuts.append(moment)
                server.cut()

        return progress

    monkeypatch.setattr(progress_module.ProgressPrinter, "started", started)
    words = ["run", str(drill.DRILL), "--store", str(ran.store), "--out", str(tmp_path / "run")]
    words += ["--fleet", str(ran.fleet), "--board", "bench", *FEW]
    # Fewer images are attacked: nothing is trained, built or measured again.
    assert main([*words, "--set", "robustness.samples=40"]) == 0
    said = capsys.readouterr().err
    assert cuts == ["sending", "working"]
    assert said.count("the connection was lost") == 2
    ran_anew = {line[8:].split()[0] for line in said.splitlines() if line.startswith("[") and line.endswith(" s")}
    assert ran_anew == {"craft", "attack", "gate", "bundle", "report", "evidence"}
    assert wait_until_none(ran.cache) == []
    assert main([*words, "--set", "robustness.samples=40"]) == 0
    assert all(line.endswith("stored") for line in capsys.readouterr().err.splitlines() if line.startswith("["))


def test_recipes_by_boards_side_by_side(ran: Ran, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(
        ran.fleet.read_text()
        + ran.fleet.read_text().replace("boards.bench", "boards.strange").replace('"board"', '"wrong-key"')
    )
    words = ["matrix", str(drill.DRILL), "--fleet", str(fleet), "--store", str(ran.store), "--out", str(tmp_path), *FEW]
    assert main(words) == DeviceError.exit_code
    printed = capfd.readouterr()
    head, row, _, error = printed.out.splitlines()
    assert head.split() == ["bench", "strange"]
    assert row.startswith("drill  passed, ")
    assert row.endswith("failed (device error)")
    assert error.startswith("drill on strange: board 'strange' (wrong-key): it does not let us in")
    assert (tmp_path / "drill-bench" / "report.html").is_file()
    assert not (tmp_path / "drill-strange").exists()
    assert main([*words, "--board", "bench"]) == 0
    assert "drill on bench: [ 1/" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--board", "bench", "--device", "rtx-4090"), DeviceError.exit_code, "is meant for NVIDIA GeForce RTX 4090"),
        (("--board", "kitchen"), DeviceError.exit_code, "board 'kitchen': is not in the fleet's file"),
        (("--host", "board"), DeviceError.exit_code, "stands beside --fleet"),
        ((), DeviceError.exit_code, "--board: is missing"),
        (
            ("--board", "bench", "--set", 'search.objectives=["latency_ms","accuracy"]'),
            RecipeError.exit_code,
            "its networks are measured on this machine, not on board 'bench'",
        ),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_built(
    ran: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, said: str
) -> None:
    command = ["run", str(drill.DRILL), "--store", str(ran.store), "--out", str(tmp_path / "run")]
    assert main([*command, "--fleet", str(ran.fleet), *words]) == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_score_of_ones_own_does_not_go_to_a_board(
    ran: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Path(drill.__file__).parent / "custom_recipe" / "custom.toml"
    words = ["run", str(recipe), "--fleet", str(ran.fleet), "--board", "bench", "--store", str(tmp_path / "store")]
    assert main(words) == RecipeError.exit_code
    assert "its score is code of this machine" in capsys.readouterr().err


def test_force_without_a_board_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(drill.DRILL), "--force"]) == DeviceError.exit_code
    assert "--force: is for boards" in capsys.readouterr().err


def test_a_board_without_the_engines_library_is_refused_before_anything_is_trained(
    board_config: BoardConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    fleet = fleet_file(replace(board_config, python=str(tmp_path / "bare" / "bin" / "python")), tmp_path)
    words = ["run", str(drill.DRILL), "--fleet", str(fleet), "--board", "bench", "--store", str(tmp_path / "store")]
    assert main([*words, "--out", str(tmp_path / "run")]) == DeviceError.exit_code
    assert "finds no module onnxruntime there. Install it for it" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()
