"""A board whose clock cannot be believed: it is said beside the result."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from devices.bench_job import BenchJob
from devices.fleet import BoardConfig
from devices.profile import load_profile
from devices.remote.board import Board
from devices.remote.clock import BoardClock
from devices.remote.lines import result_lines
from devices.trust.store import UNSIGNED

CPU = load_profile("cpu")


@pytest.mark.parametrize(
    ("offset_s", "set_by_s", "said"),
    [
        (0.4, 0.1, []),
        (-1.7e9, 0.0, ["the board's clock is 53.9 years behind this machine's"]),
        (7300.0, 0.0, ["the board's clock is 2.0 hours ahead of this machine's"]),
        (0.0, -90.0, ["the board's clock went backwards by 90.0 s meanwhile"]),
        (200.0, 1.7e9, ["the board's clock is 3.3 minutes ahead", "the board's clock went forwards by 53.9 years"]),
    ],
)
def test_a_clock_that_cannot_be_believed_is_said(offset_s: float, set_by_s: float, said: list[str]) -> None:
    warnings = BoardClock.of(offset_s, set_by_s).warnings
    assert len(warnings) == len(said)
    assert all(warning.startswith(words) for warning, words in zip(warnings, said, strict=True))


def test_a_board_with_another_date_says_so(
    board_config: BoardConfig, deploy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    monkeypatch.setattr("devices.remote.link.time.time", lambda: real() + 3.2e8)
    with Board(board_config, CPU) as board:
        found = board.bench(deploy, tmp_path / "out", BenchJob(seconds=0.05, trust=UNSIGNED))
    assert found.clock.warnings[0].startswith("the board's clock is 10.1 years behind")
    assert 0 < found.seconds < 60
    assert any("10.1 years" in line for line in result_lines("bench", CPU, found))
