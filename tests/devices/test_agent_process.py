"""Processes that must not outlive what they were started for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from devices.agent_process import python_command

ROOT = Path(__file__).parent.parent.parent
_SLEEPER = "import sys, time; {first}; print('ready', flush=True); time.sleep(60)"
_PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, '-c', {code!r}], stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""
# A child that starts another in a session of its own, and ends: an orphan that no group of processes holds.
_KILLER = """
import os, subprocess, sys, time
from devices.agent_process import adopt_orphans, kill_descendants
adopt_orphans()
code = "import subprocess; print(subprocess.Popen(['sleep', '60'], start_new_session=True, stdout=-3, stderr=-3).pid)"
orphan = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.strip()
child = subprocess.Popen(['sleep', '60'])
print(orphan, child.pid, os.path.exists(f'/proc/{orphan}'), flush=True)
started = time.monotonic()
kill_descendants()
print(time.monotonic() - started < 4, flush=True)
"""


def gone(pid: int) -> bool:
    """Whether it ends within half a minute; what nobody waited for counts as ended."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("dies", [True, False])
def test_a_process_dies_with_its_parent_if_it_asks_for_that(dies: bool) -> None:
    first = "from devices.agent_process import die_with_parent; die_with_parent()" if dies else "pass"
    code = _PARENT.format(code=_SLEEPER.format(first=first))
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert Path(f"/proc/{child}").exists()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    if dies:
        assert gone(child)
    else:
        assert Path(f"/proc/{child}").exists()
        os.kill(child, signal.SIGKILL)


def test_every_descendant_is_killed_orphans_in_other_sessions_too() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _KILLER], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    orphan, child, existed = first.split()
    assert (existed, second) == ("True", "True")
    assert gone(int(orphan))
    assert gone(int(child))


def test_a_fresh_interpreter_has_the_same_import_path(tmp_path: Path) -> None:
    (tmp_path / "devices.py").write_text("raise SystemExit('taken from the current folder')")
    code = "import devices.errors; print(sys.argv[1:], devices.__file__, sep='\\n')"
    done = subprocess.run(
        python_command(code, "a b", "--c"), capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False
    )
    words, place = done.stdout.splitlines()
    assert words == "['a b', '--c']"
    assert Path(place) == ROOT / "devices" / "__init__.py"
