"""A profile to start from, and what is said of one's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from devices.errors import DeviceError
from devices.profile import load_profile, read_profile
from devices.profile_files import check_file, template_toml, write_template
from devices.profile_read import TYPES, shipped_profiles


def test_a_template_is_a_profile_named_as_its_file(tmp_path: Path) -> None:
    path = tmp_path / "kitchen-board.toml"
    write_template(path)
    assert load_profile(str(path)).name == "kitchen-board"
    errors, lines = check_file(path)
    assert errors == ()
    assert lines[0] == f"{path}: kitchen-board, A board of mine: TensorRT, built on the device by the agent"
    assert lines[-1] == "no fault, 1 doubtful"
    assert "unknown   power_mode, sm_count" in lines[-2]


def test_a_template_with_every_line_in_use_is_a_profile_too(tmp_path: Path) -> None:
    """No key is forgotten, none is misspelt, and each example has the right type and unit."""
    path = tmp_path / "all.toml"
    path.write_text(re.sub(r"^# (?=[a-z0-9_]+ = |\[)", "", template_toml("all"), flags=re.MULTILINE))
    profile = read_profile(path)
    assert profile.based_on is not None
    text = path.read_text()
    for section, types in TYPES.items():
        body = text.split(f"\n[{section}]")[1].split("\n[")[0]
        for key in types:
            assert re.search(rf"^{key} = ", body, re.MULTILINE), f"{section}.{key}"


@pytest.mark.parametrize(
    ("name", "said"),
    [("board", "no name for a profile"), ("My Board.toml", "no name for a device"), (".toml", "no name for a")],
)
def test_a_template_needs_a_name(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(DeviceError, match=f"--out.*{said}"):
        write_template(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("kept")
    with pytest.raises(DeviceError, match="is there already"):
        write_template(tmp_path / "mine.toml")
    assert (tmp_path / "mine.toml").read_text() == "kept"


def test_doubts_and_what_is_unknown_are_told(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        'name = "jetson-orin-nano-8gb"\ntitle = "Mine"\nbased_on = "jetson-orin-nano-8gb"\n[hardware]\nint8_tops = 67\n'
        '[sources]\n"hardware.int8_tops" = "advertisement"\n'
    )
    errors, lines = check_file(path)
    assert errors == ()
    assert "  doubtful  name: 'jetson-orin-nano-8gb' is a profile that ships" in lines[1]
    assert "  doubtful  hardware.int8_tops: 67 contradicts 20.5" in lines[2]
    assert lines[3].startswith("  unknown   l2_cache_mb")
    assert lines[-1] == "no fault, 2 doubtful"


def test_a_sound_profile_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('name = "own"\ntitle = "Mine"\nbased_on = "cpu"\n')
    assert check_file(path)[1][-1] == "no fault, nothing doubtful"


def test_a_profile_that_ships_may_have_its_own_name() -> None:
    path = Path(str(shipped_profiles()["cpu"]))
    assert check_file(path)[1][-1] == "no fault, nothing doubtful"
