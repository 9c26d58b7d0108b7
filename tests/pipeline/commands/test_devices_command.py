"""`espalier devices`, and `--profile` wherever `--device` is."""

from __future__ import annotations

from pathlib import Path

import pytest

from devices.errors import DeviceError
from pipeline.cli import _parser, main

OWN = 'name = "own"\ntitle = "Mine"\nbased_on = "cpu"\n'
COMMANDS = (
    ["run", "r.toml"],
    ["stages", "r.toml"],
    ["bench", "bundle"],
    ["predict", "n.onnx"],
    ["devices", "calibrate", "--out", "o.toml"],
)


def test_list_shows_this_host(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices"]) == main(["devices", "list"]) == 0
    output = capsys.readouterr().out
    assert output.count("jetson-orin-nano-8gb-super") == 2
    assert "(this host)" in output


def test_the_table_is_printed_for_the_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "list", "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("| profile | SM |")


def test_a_template_is_written_checked_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.toml"
    assert main(["devices", "template", "--out", str(path)]) == 0
    assert main(["devices", "check", str(path)]) == 0
    assert "no fault, 1 doubtful" in capsys.readouterr().out
    assert main(["devices", "show", str(path)]) == 0
    assert capsys.readouterr().out.startswith("mine: A board of mine")
    assert main(["devices", "template", "--out", str(path)]) == DeviceError.exit_code


def test_a_check_names_every_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(OWN + "[hardware]\nmemory_mb = 8192\ngpu_clock_mhz = 1.3\n")
    assert main(["devices", "check", str(path)]) == DeviceError.exit_code
    captured = capsys.readouterr()
    assert captured.out == ""
    first, second = captured.err.splitlines()
    assert f"{path}: hardware.memory_mb: is not a key of a profile" in first
    assert "Give it in MHz" in second
    assert main(["devices", "check", str(tmp_path / "none.toml")]) == DeviceError.exit_code


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_a_profile_of_ones_own_is_taken_instead_of_a_name(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = _parser()
    assert parser.parse_args([*words, "--profile", "own.toml"]).device == "own.toml"
    assert parser.parse_args([*words, "--device", "rtx-4090"]).device == "rtx-4090"
    for bad, said in (
        (["--profile", "own.toml", "--device", "rtx-4090"], "not allowed with"),
        (["--profile", "own"], "its name ends with .toml"),
    ):
        with pytest.raises(SystemExit, match="2"):
            parser.parse_args([*words, *bad])
        assert said in capsys.readouterr().err


def test_stages_are_those_of_the_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    store = ["--store", str(tmp_path / "store")]
    assert main(["stages", "recipes/mlp.toml", "--profile", str(path), *store]) == 0
    assert "would run" in capsys.readouterr().out
    path.write_text(OWN.replace('"cpu"', '"cpuu"'))
    assert main(["stages", "recipes/mlp.toml", "--profile", str(path), *store]) == DeviceError.exit_code
    assert "based_on: there is no profile 'cpuu' that ships. Did you mean 'cpu'?" in capsys.readouterr().err
