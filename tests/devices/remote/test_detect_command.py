"""`espalier devices detect` of a board behind a real ssh server."""

from __future__ import annotations

from pathlib import Path

import pytest

from devices.errors import DeviceError
from devices.fleet import BoardConfig
from pipeline.cli import main
from tests.devices.remote.test_bench_command import fleet_file


def test_a_board_is_told_and_whether_it_is_the_device(
    board_config: BoardConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["devices", "detect", "--fleet", str(fleet_file(board_config, tmp_path)), "--board", "bench"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("board 'bench' is of profile 'cpu' (")
    assert any(line.startswith("engine runtimes ") and "onnxruntime" in line for line in lines)
    assert any(line.startswith(f"cache            {board_config.cache}, ") for line in lines)
    other = ["--device", "jetson-orin-nano-8gb"]
    assert main([*words, *other]) == DeviceError.exit_code
    assert "board 'bench' is NOT of profile 'jetson-orin-nano-8gb'" in capsys.readouterr().out
    assert main([*words, *other, "--force"]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", "cpu"], "--device: says what a board has to be, and none is named"),
        (["--host", "user@board", "--device", "jetson-nano"], "is served by trtexec"),
        (["--force"], "--force: is for boards"),
    ],
)
def test_options_that_do_not_fit_are_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "detect", *words]) == DeviceError.exit_code
    assert said in capsys.readouterr().err
