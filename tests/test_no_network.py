"""Nothing phones home: a whole run, judged, explained and logged, asks for no other machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests import drill

GUARD = Path(__file__).parent / "no_network"
ASKS = """
import socket, urllib.request
for ask in (
    lambda: socket.create_connection(("192.0.2.1", 80), 1),
    lambda: urllib.request.urlopen("http://example.invalid/", timeout=1),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("192.0.2.1", 53)),
):
    try:
        ask()
    except OSError as error:
        assert "allow no connection" in str(error), error
    else:
        raise AssertionError("it was let through")
socket.create_server(("127.0.0.1", 0)).close()
"""


def guarded(words: list[str], cwd: Path, log: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of which every Python process refuses other machines."""
    environment = drill.environment() | {"PYTHONPATH": str(GUARD), "ESPALIER_TEST_CONNECTIONS": str(log)}
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_the_guard_sees_connections(tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = guarded([sys.executable, "-c", ASKS], tmp_path, log)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["getaddrinfo", "getaddrinfo", "connect"]


def test_no_command_asks_for_another_machine(tmp_path: Path) -> None:
    """In a store of its own, so that every step runs."""
    log, run = tmp_path / "log", tmp_path / "run"
    commands = [
        [*drill.command(tmp_path / "store", run), "--mlflow", f"file:{tmp_path / 'mlruns'}"],
        [str(drill.ESPALIER), "gate", str(run)],
        [str(drill.ESPALIER), "verify", str(run), "--explain", "--allow-unsigned"],
        [str(drill.ESPALIER), "report", str(run)],
    ]
    for words in commands:
        done = guarded(words, tmp_path, log)
        assert done.returncode == 0, done.stderr
    assert not log.exists(), log.read_text()
    # What was logged lies in the folder that was named.
    (logged,) = (tmp_path / "mlruns").glob("*/*/metrics/shipped_clean_accuracy")
    assert float(logged.read_text().split()[1]) > 0.5
    assert (logged.parent.parent / "artifacts" / "report.json").read_bytes() == (run / "report.json").read_bytes()
    assert (logged.parent.parent / "artifacts" / "deploy" / "manifest.json").is_file()
    assert (logged.parent.parent / "params" / "prune.target_macs").read_text() == "0.6"
