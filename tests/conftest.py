"""For all tests: property tests that give the same cases every time, and one finished run to look at."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests import drill

# Before anything measures: a test waits for what it starts itself, and neither for another process's tests, which would
# say so where it expects silence, nor for a benchmark of an hour.
os.environ["ESPALIER_MEASURE_LOCK"] = f"/tmp/espalier-tests-{os.getpid()}.lock"

# What `make test ARGS=...` was given is not meant for the `make` that a test starts.
for _name in ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "ARGS"):
    os.environ.pop(_name, None)

settings.register_profile(
    "espalier",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("espalier")

# Folders whose tests share what takes long to make, or one ssh server, or look for what Ray leaves in /tmp, and files
# of whole commands; they come first, being the longest, so that no process is left alone with one at the end.
_TOGETHER = (
    "tests/docs/",
    "tests/pipeline/threats/",
    "tests/devices/remote/",
    "tests/pipeline/search/",
    "tests/pipeline/test_compression.py",
    "tests/test_examples.py",
    "tests/pipeline/test_chain.py",
    "tests/test_no_network.py",
    "tests/test_base_install.py",
)


def _group(nodeid: str) -> str:
    """What goes to one process as a whole: one of `_TOGETHER`, or a file."""
    return next((first for first in _TOGETHER if nodeid.startswith(first)), nodeid.partition("::")[0])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those of `_TOGETHER` first."""
    items.sort(key=lambda item: (*_TOGETHER, _group(item.nodeid)).index(_group(item.nodeid)))


class _Groups(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _Groups:
    """Where several processes share the work, as in `make test`."""
    return _Groups(config, log)


@pytest.fixture(scope="session")
def drilled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Store and run folder of an undisturbed run of the drill recipe. Read only; each process of pytest has a copy."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    first = shared / "drilled-first"
    with (shared / "drilled-first.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not first.is_dir():
            new = shared / "drilled-new"
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            # As a user's own process, whose libraries are not loaded yet: what they say then is heard.
            words = drill.command(new / "store", new / "run")
            done = subprocess.run(
                words, cwd=new, env=drill.environment(), capture_output=True, text=True, timeout=1800, check=False
            )
            assert done.returncode == 0, done.stderr
            assert [line for line in done.stderr.splitlines() if not line.startswith("[")] == []
            new.rename(first)
    base = tmp_path_factory.mktemp("drilled")
    for name in ("store", "run"):
        shutil.copytree(first / name, base / name)
    return base / "store", base / "run"
