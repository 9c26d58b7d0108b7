"""`fleet.toml`: what it says, and what a wrong one says."""

from __future__ import annotations

from pathlib import Path

import pytest

from devices.errors import DeviceError
from devices.fleet import BoardConfig, board_of, read_fleet

WHOLE = """
[boards.nano]
host = "user@nano.local"
device = "jetson-orin-nano-8gb"
python = "docker run --rm -i -v ~/.cache/espalier:/cache l4t python3"
cache = "/cache"
ssh_options = ["-p", "2222"]
limit_s = 60

[boards.desk]
host = "desk"
device = "cpu"
"""
LEAST = 'host = "a"\ndevice = "cpu"\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fleet.toml"


def test_boards_in_order_with_defaults(path: Path) -> None:
    path.write_text(WHOLE)
    fleet = read_fleet(path)
    nano, desk = fleet.boards
    assert desk == BoardConfig(name="desk", host="desk", device="cpu")
    assert (nano.name, nano.cache, nano.ssh_options, nano.limit_s) == ("nano", "/cache", ("-p", "2222"), 60.0)
    assert (desk.python, desk.cache) == ("python3", "~/.cache/espalier")
    assert fleet.board("nano") is nano
    with pytest.raises(DeviceError, match=r"Did you mean 'nano'\?"):
        fleet.board("nana")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "boards: must be tables, at least one"),
        ("boards = 3", "boards: must be tables"),
        ("[board.a]\n" + LEAST, "board: is not a key of a fleet's file"),
        ("[boards]\na = 3", "boards.a: must be a table"),
        ('[boards."a b"]\n' + LEAST, "boards.a b: is no name for a board"),
        ("[boards.a]\n" + LEAST + 'hots = "b"', "boards.a.hots: is not a key of a board. Did you mean 'host'?"),
        ('[boards.a]\nhost = "a"', "boards.a.device: is missing"),
        ("[boards.a]\n" + LEAST + "python = 3", "boards.a.python: must be a text, not 3"),
        ("[boards.a]\n" + LEAST + "limit_s = nan", "boards.a.limit_s: must be seconds"),
        ("[boards.a]\n" + LEAST + "limit_s = true", "boards.a.limit_s: must be seconds"),
        ("[boards.a]\n" + LEAST + "reconnect_s = -1", "boards.a.reconnect_s: must be seconds"),
        ("[boards.a]\n" + LEAST + "start_s = 0x" + "f" * 5000, "boards.a.start_s: must be seconds"),
        ("[boards.a]\n" + LEAST + "python = 0x" + "f" * 5000, "boards.a.python: must be a text"),
        ("[boards.a]\n" + LEAST + 'ssh_options = "-p 22"', "boards.a.ssh_options: must be a list of texts"),
        ('[boards.a]\nhost = "-oProxyCommand=x"\ndevice = "cpu"', "boards.a: host: '-oProxyCommand=x' is no host"),
        ('[boards.a]\nhost = "a b"\ndevice = "cpu"', "boards.a: host: 'a b' is no host"),
        ("[boards.a]\n" + LEAST + 'python = "py\\nthon"', "boards.a: python: 'py\\nthon' is empty or not plain text"),
        ("[boards.a]\n" + LEAST + 'cache = " "', "boards.a: cache: ' ' is empty or not plain text"),
        ("[boards.a", "is not valid TOML"),
    ],
)
def test_a_wrong_file_names_file_and_key(path: Path, content: str, said: str) -> None:
    path.write_text(content)
    with pytest.raises(DeviceError) as caught:
        read_fleet(path)
    assert str(caught.value).startswith(f"{path}: {said}")


def test_a_profile_of_ones_own_lies_beside_the_file(path: Path) -> None:
    path.write_text(
        '[boards.a]\nhost = "a"\ndevice = "mine/box.toml"\n[boards.b]\nhost = "b"\ndevice = "/own/box.toml"\n'
    )
    near, elsewhere = read_fleet(path).boards
    assert near.device == str(path.parent / "mine" / "box.toml")
    assert elsewhere.device == "/own/box.toml"


@pytest.mark.parametrize(
    "options",
    [
        '["-o", "StrictHostKeyChecking=no"]',
        '["-oStrictHostKeyChecking no"]',
        '["-o", "stricthostkeychecking=accept-new"]',
        '["-o", "UserKnownHostsFile=/dev/null"]',
        '["-oStrictHostKeyChecking=false"]',
        '["-o", "GlobalKnownHostsFile=/dev/null"]',
    ],
)
def test_host_keys_are_never_skipped(path: Path, options: str) -> None:
    path.write_text(f"[boards.a]\n{LEAST}ssh_options = {options}")
    with pytest.raises(DeviceError, match="switches the check of host keys off"):
        read_fleet(path)


def test_a_board_without_a_file() -> None:
    assert board_of("user@nano", "cpu") == BoardConfig(name="user@nano", host="user@nano", device="cpu")
    with pytest.raises(DeviceError, match="--host: host: '-x' is no host"):
        board_of("-x", "cpu")
