"""Nothing phones home: a whole run, and every command on one, asks for no other machine.

`espalier reproduce`, which runs everything again, is watched in `tests/pipeline/attest/test_repeat.py`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tests import drill

ASKS = """
import socket, urllib.request
for ask in (
    lambda: socket.create_connection(("192.0.2.1", 80), 1),
    lambda: urllib.request.urlopen("http://example.invalid/", timeout=1),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("192.0.2.1", 53)),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53)),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", 0, ("192.0.2.1", 53)),
    lambda: socket.gethostbyname("example.invalid"),
):
    try:
        ask()
    except OSError as error:
        assert "allow no connection" in str(error), error
    else:
        raise AssertionError("it was let through")
socket.create_server(("127.0.0.1", 0)).close()
"""


def test_the_guard_sees_connections(tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = drill.guarded([sys.executable, "-c", ASKS], tmp_path, log)
    assert done.returncode == 0, done.stderr
    asked = [line.split()[0] for line in log.read_text().splitlines()]
    assert asked == ["getaddrinfo", "getaddrinfo", "connect", "sendto", "sendto", "gethostbyname"]


def require_silent(commands: list[list[str]], folder: Path) -> None:
    """Run these, one after the other, in a folder: each does what it is for, and asks for no other machine."""
    log = folder / "log"
    for words in commands:
        done = drill.guarded(words, folder, log)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
    assert not log.exists(), log.read_text()


def test_no_command_asks_for_another_machine(tmp_path: Path) -> None:
    """In a store of its own, so that every step runs."""
    run = tmp_path / "run"
    commands = [
        [*drill.command(tmp_path / "store", run), "--mlflow", f"file:{tmp_path / 'mlruns'}"],
        [str(drill.ESPALIER), "gate", str(run)],
        [str(drill.ESPALIER), "verify", str(run), "--explain", "--allow-unsigned"],
        [str(drill.ESPALIER), "report", str(run)],
    ]
    require_silent(commands, tmp_path)
    # What was logged lies in the folder that was named.
    (logged,) = (tmp_path / "mlruns").glob("*/*/metrics/shipped_clean_accuracy")
    assert float(logged.read_text().split()[1]) > 0.5
    assert (logged.parent.parent / "artifacts" / "report.json").read_bytes() == (run / "report.json").read_bytes()
    assert (logged.parent.parent / "artifacts" / "deploy" / "manifest.json").is_file()
    assert (logged.parent.parent / "params" / "prune.target_macs").read_text() == "0.6"


def test_no_command_on_a_run_asks_for_another_machine(drilled: tuple[Path, Path], tmp_path: Path) -> None:
    """Signed, released, verified as an archive, attacked, set beside itself and listed."""
    run, dist = tmp_path / "runs" / "drill", tmp_path / "dist"
    shutil.copytree(drilled[1], run)
    archive = dist / "drill-1.0.0" / "drill-1.0.0-cpu.tar.gz"
    commands = [
        ["keygen", "release"],
        ["sign", str(run), "--key", "release.key"],
        ["release", str(run), "--version", "1.0.0", "--key", "release.key", "--trust", "release.trust.toml"],
        ["verify", str(archive), "--trust", "release.trust.toml"],
        ["attack", str(run), "--trust", "release.trust.toml", "--threats", "replay,bit_errors", "--samples", "64"],
        ["compare", str(run), str(run), "--out", "page.html"],
        ["index", "runs"],
        ["gate", str(run), "--baseline", str(dist / "drill-1.0.0"), "--trust", "release.trust.toml"],
        ["devices", "list"],
    ]
    require_silent([[str(drill.ESPALIER), *words] for words in commands], tmp_path)
    assert all((tmp_path / name).is_file() for name in ("page.html", "runs/index.html"))


def test_no_command_on_this_host_asks_for_another_machine(drilled: tuple[Path, Path], tmp_path: Path) -> None:
    """What is stored is listed, a bundle is measured here and another device's latency predicted; and the agent."""
    store, run = drilled
    deploy = [str(run / "deploy"), "--allow-unsigned"]
    commands = [
        ["stages", str(drill.DRILL), "--store", str(store)],
        ["devices", "detect"],
        ["predict", str(run / "deploy" / "model.onnx"), "--device", "a2", "--json", "predicted.json"],
        ["bench", *deploy, "--evidence", str(run / "evidence"), "--seconds", "0.1", "--json", "measured.json"],
    ]
    agent = [["verify", *deploy], ["bench", *deploy, "--seconds", "0.1"]]
    here = [[str(drill.ESPALIER), *words] for words in commands]
    there = [[str(drill.ESPALIER.with_name("espalier-agent")), *words] for words in agent]
    require_silent([*here, *there], tmp_path)
    assert all((tmp_path / name).is_file() for name in ("predicted.json", "measured.json"))
