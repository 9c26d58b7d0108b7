"""`espalier bench` as a user types it, on a board behind a real ssh server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from devices.errors import BundleError, DeviceError
from devices.fleet import BoardConfig
from pipeline.cli import main


def fleet_file(config: BoardConfig, folder: Path) -> Path:
    path = folder / "fleet.toml"
    rows = [f"{key} = {json.dumps(getattr(config, key))}" for key in ("host", "device", "python", "cache")]
    rows.append(f"ssh_options = {json.dumps(list(config.ssh_options))}")
    path.write_text("[boards.bench]\n" + "\n".join(rows) + "\n")
    return path


def test_a_board_of_the_fleet_measures_and_replays(
    board_config: BoardConfig, deploy: Path, evidence: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet, result = fleet_file(board_config, tmp_path), tmp_path / "result.json"
    code = main(
        [
            *("bench", str(deploy), "--fleet", str(fleet), "--board", "bench", "--allow-unsigned"),
            *("--seconds", "0.05", "--evidence", str(evidence), "--json", str(result)),
        ]
    )
    printed, found = capsys.readouterr().out, json.loads(result.read_text())
    assert code == 0
    assert f"{found['bench']['latency']['p50_ms']['value']:.4f} ms" in printed
    assert "measured on board 'bench'" in printed
    assert found["attack"]["worst_case"]["value"] == pytest.approx(13 / 30)


def test_here_without_a_board(deploy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(deploy), "--device", "cpu", "--allow-unsigned", "--seconds", "0.05"]) == 0
    assert "p50" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--host", "board"], DeviceError.exit_code, "--device: is missing"),
        (["--host", "board", "--fleet", "f.toml"], DeviceError.exit_code, "Give one of them"),
        (["--fleet", "f.toml"], DeviceError.exit_code, "--board: is missing"),
        (["--device", "rtx-4090", "--allow-unsigned"], DeviceError.exit_code, "is meant for NVIDIA GeForce RTX 4090"),
        (["--device", "cpu"], BundleError.exit_code, "--allow-unsigned"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_said(
    deploy: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    assert main(["bench", str(deploy), *arguments]) == code
    assert said in capsys.readouterr().err


def test_no_time_is_refused_by_the_parser(deploy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", str(deploy), "--seconds", "0"])
    assert ended.value.code == 2
    assert "--seconds" in capsys.readouterr().err
