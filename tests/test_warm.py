"""Commands with their libraries loaded behave as those of a process of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import warm

SAID = "import os, sys; print('out', os.getcwd(), sys.argv[1:], os.environ['WORD']); print('err', file=sys.stderr)\n"


@pytest.mark.parametrize(
    ("ending", "code", "last"),
    [
        ("", 0, "err"),
        ("sys.exit(7)", 7, "err"),
        ("sys.exit('refused')", 1, "refused"),
        ("raise ValueError('wrong')", 1, "ValueError: wrong"),
        ("os.kill(os.getpid(), 15)", -15, "err"),
        ("import atexit; atexit.register(print, 'at the end', file=sys.stderr)", 0, "at the end"),
    ],
)
def test_a_command_gives_code_and_words(tmp_path: Path, ending: str, code: int, last: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(SAID + ending)
    done = warm.run_warm([str(script), "a b"], tmp_path, warm.environment() | {"WORD": "here"})
    assert done.returncode == code
    # What a signal ends may not have written what it kept.
    assert code < 0 or done.stdout == f"out {tmp_path} ['a b'] here\n"
    assert done.stderr.splitlines()[-1] == last


def test_libraries_are_there_and_ours_are_not(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, threading; print([name in sys.modules for name in ('torch', 'pipeline', 'devices')])\n"
    )
    with script.open("a") as stream:
        stream.write("import os, random, numpy; print(len(os.listdir('/proc/self/task')), numpy.random.random())\n")
    lines = [warm.run_warm([str(script)], tmp_path, warm.environment()).stdout.splitlines() for _ in range(2)]
    assert [line[0] for line in lines] == ["[True, False, False]"] * 2
    # One thread, and chance of its own.
    assert [line[1].split()[0] for line in lines] == ["1", "1"]
    assert lines[0][1] != lines[1][1]


def test_what_takes_too_long_is_ended(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(600)")
    command = warm.Warm([str(script)], tmp_path, warm.environment())
    assert command.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        command.wait(0.1)
    command.kill()
    assert command.wait() == command.poll() == -signal.SIGKILL
    command.kill()


def test_a_command_ends_with_whoever_asked_for_it(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    words = [sys.executable, warm.__file__, str(warm.place()), str(script)]
    with subprocess.Popen(words, cwd=tmp_path, env=warm.environment(), stdout=subprocess.PIPE, text=True) as asked:
        assert asked.stdout is not None
        pid = int(asked.stdout.readline())
        os.kill(pid, 0)
        asked.kill()
    until = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}").exists()
