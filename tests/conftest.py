"""For all tests: property tests that give the same cases every time, and one finished run to look at."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import drill

# Before anything measures: tests wait for one another, and not for a benchmark of an hour.
os.environ.setdefault("ESPALIER_MEASURE_LOCK", f"/tmp/espalier-tests-{os.getpid()}.lock")

settings.register_profile(
    "espalier",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("espalier")

# Folders whose tests share what takes long to make, or one ssh server; they come first, being the longest.
_TOGETHER = ("docs", "pipeline/threats", "devices/remote")


# First, because what shares out the work reads the marks in the same hook.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes share the work (`make test`), a file goes to one of them, and a folder of `_TOGETHER`."""
    here = Path(__file__).parent
    groups = {}
    for item in items:
        file = item.path.relative_to(here)
        folder = next((folder for folder in _TOGETHER if file.is_relative_to(folder)), None)
        groups[item] = (_TOGETHER.index(folder) if folder else len(_TOGETHER), folder or str(file))
        item.add_marker(pytest.mark.xdist_group(groups[item][1]))
    items.sort(key=lambda item: groups[item][0])


@pytest.fixture(scope="session")
def drilled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Store and run folder of an undisturbed run of the drill recipe. Read only."""
    base = tmp_path_factory.mktemp("drilled")
    store, out = base / "store", base / "run"
    done = drill.run(store, out)
    assert done.returncode == 0, done.stderr
    return store, out
