"""Whom the options of a command trust."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pytest

from devices.errors import BundleError
from devices.trust.options import VARIABLE, add_trust_options, named_trust, trust_of
from devices.trust.store import Trust


def parsed(*words: str) -> argparse.Namespace:
    command = argparse.ArgumentParser()
    add_trust_options(command)
    return command.parse_args(words)


@pytest.fixture
def place(tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of trust `one.toml`, of the key ours, and `two.toml`, of theirs; the environment names neither."""
    monkeypatch.delenv(VARIABLE, raising=False)
    for file, key in (("one", "ours"), ("two", "theirs")):
        shutil.copy(keys / f"{key}.pub", tmp_path / f"{key}.pub")
        text = f'issued = 2026-11-01\n[[keys]]\nname = "{key}"\npublic_key = "{key}.pub"\n'
        (tmp_path / f"{file}.toml").write_text(text)
    return tmp_path


def test_nobody_is_trusted_where_nothing_is_named(place: Path) -> None:
    assert trust_of(parsed()) == Trust()
    assert named_trust(None) == Trust()
    assert not Trust().allow_unsigned
    assert not Trust().allow_unknown_clock


def test_each_allowance_is_one_option(place: Path) -> None:
    unsigned, unknown_clock = trust_of(parsed("--allow-unsigned")), trust_of(parsed("--allow-unknown-clock"))
    assert (unsigned.allow_unsigned, unsigned.allow_unknown_clock) == (True, False)
    assert (unknown_clock.allow_unsigned, unknown_clock.allow_unknown_clock) == (False, True)
    trusting = trust_of(parsed("--trust", str(place / "one.toml"), "--allow-unsigned"))
    assert (trusting.names, trusting.allow_unsigned, trusting.allow_unknown_clock) == (("ours",), True, False)


def test_the_environment_names_a_file_where_the_command_names_none(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(place / "one.toml"))
    assert trust_of(parsed()).names == ("ours",)
    assert trust_of(parsed("--trust", str(place / "two.toml"))).names == ("theirs",)
    # A key that is named is trusted alone.
    key = trust_of(parsed("--key", str(place / "theirs.pub")))
    assert [one.key_id for one in key.keys] == [one.key_id for one in named_trust(place / "two.toml").keys]
    monkeypatch.setenv(VARIABLE, "")
    assert trust_of(parsed()) == Trust()


def test_a_key_beside_a_file_of_trust_is_refused(place: Path) -> None:
    with pytest.raises(BundleError) as refused:
        trust_of(parsed("--key", str(place / "ours.pub"), "--trust", str(place / "one.toml")))
    assert str(refused.value) == "--key: stands beside --trust, and each says who is trusted. Give one of them."


@pytest.mark.parametrize("option", ["--trust", "--key"])
def test_a_file_that_is_not_there_is_named(place: Path, option: str) -> None:
    with pytest.raises(BundleError, match="gone"):
        trust_of(parsed(option, str(place / "gone")))
