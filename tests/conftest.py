"""For all tests: property tests that give the same cases every time, and one finished run to look at."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import drill

settings.register_profile(
    "espalier",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("espalier")


@pytest.fixture(scope="session")
def drilled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Store and run folder of an undisturbed run of the drill recipe. Read only."""
    base = tmp_path_factory.mktemp("drilled")
    store, out = base / "store", base / "run"
    done = drill.run(store, out)
    assert done.returncode == 0, done.stderr
    return store, out
