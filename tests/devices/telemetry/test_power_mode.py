"""Power modes by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from devices.telemetry.power_mode import parse_query, read_power_mode, same_mode
from tests.devices.telemetry.trees import expand


@pytest.mark.parametrize(
    ("tree", "name", "number"),
    [
        ("orin-nano", "15W", 0),
        ("agx-orin", "MAXN", 0),
        ("xavier-nx", "MODE_15W_6CORE", 2),
        # Its list of modes is missing: the number is all that is known.
        ("xavier-nx-jetpack4", "number 3", 3),
    ],
)
def test_the_files_name_the_mode(tmp_path: Path, tree: str, name: str, number: int) -> None:
    mode = read_power_mode(expand(tree, tmp_path))
    assert mode is not None
    assert (mode.name, mode.number) == (name, number)


def test_modes_on_offer_are_named_without_those_in_comments(tmp_path: Path) -> None:
    mode = read_power_mode(expand("orin-nano", tmp_path))
    assert mode is not None
    assert mode.offered == ("15W", "25W", "MAXN_SUPER", "7W")


def test_what_the_command_says_goes_before_the_files(tmp_path: Path) -> None:
    mode = read_power_mode(expand("orin-nano", tmp_path), lambda: "NV Power Mode: MAXN_SUPER\n2\n")
    assert mode is not None
    assert (mode.name, mode.number, mode.source) == ("MAXN_SUPER", 2, "nvpmodel -q")


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("NV Power Mode: MODE_15W_6CORE\n2\n", ("MODE_15W_6CORE", 2)),
        ("NVPM WARN: fan mode is not set!\nNV Power Mode: MAXN\n0\n", ("MAXN", 0)),
        ("NV Fan Mode:quiet\r\nNV Power Mode: 30W\r\n2\r\n", ("30W", 2)),
        ("NV Power Mode: 7W\n", ("7W", None)),
        ("NVPM ERROR: failed to read PARAM\n", None),
        ("", None),
    ],
)
def test_output_of_nvpmodel(output: str, expected: tuple[str, int | None] | None) -> None:
    assert parse_query(output) == expected


def test_a_pc_has_no_power_mode(tmp_path: Path) -> None:
    assert read_power_mode(expand("pc", tmp_path)) is None


def test_names_of_one_mode() -> None:
    assert same_mode("MODE_15W", "15w")
    assert same_mode("MAXN_SUPER", "MAXN SUPER")
    assert not same_mode("MAXN", "MAXN_SUPER")
    assert not same_mode("15W", "MODE_15W_6CORE")
