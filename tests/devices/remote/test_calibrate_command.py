"""`espalier devices calibrate --fleet` as a user types it, on a board behind a real ssh server."""

from __future__ import annotations

from pathlib import Path

import pytest

from devices.fleet import BoardConfig
from devices.profile import read_profile
from exporters import probes
from exporters.probes import ProbePlan
from pipeline.cli import main
from tests.devices.remote.conftest import blob_bytes
from tests.devices.remote.test_bench_command import fleet_file


def test_a_board_is_calibrated_and_its_profile_written_here(
    board_config: BoardConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small probes: what they tell of this processor is not looked at, but that they were timed there."""
    plan = ProbePlan(widest=32, side=4, layers=1)
    monkeypatch.setattr(probes, "probe_plan", lambda *_: plan)
    out, fleet = tmp_path / "mine.toml", fleet_file(board_config, tmp_path)
    words = ["devices", "calibrate", "--fleet", str(fleet), "--board", "bench", "--seconds", "0.5"]
    assert main([*words, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "measured on board 'bench'" in printed
    assert f"Use it with --profile {out}" in printed
    table = read_profile(out).latency_table
    assert table is not None
    assert set(table.channels) <= set(plan.channels)
    assert all(value > 0 for value in table.ms_per_gmac)
    # A file for each probe went there, and their list.
    assert len(blob_bytes(Path(board_config.cache))) == 2 * len(plan.channels) + 2 + 1
