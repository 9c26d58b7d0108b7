"""What others wrote into bundles, runs, profiles and evidence reaches the terminal without its escape codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from devices import agent
from devices.bundle import write_manifest
from devices.files import write_json
from devices.profile import load_profile
from exporters.archive import write_archive
from pipeline import cli
from pipeline.attest.repeat import Repeated
from pipeline.commands.reproduce import tell
from pipeline.threats.report import FORMAT
from tests.pipeline.example_run import grown_report, write_run

HOSTILE = "x\x1b[2J\x1b]0;owned\x07\r\u202espoofed\nwhole  all is well"
PLAIN = r"x\x1b[2J\x1b]0;owned\x07"


def _bundle(folder: Path, kind: str, **content: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "labels.json").write_text("[]")
    write_manifest(folder, kind, {"name": HOSTILE, "device": "cpu", **content})
    return folder


def _unpack(folder: Path) -> int:
    write_archive(_bundle(folder / "bundle", HOSTILE), folder / "it.tar.gz", "it")
    return agent.main(["unpack", str(folder / "it.tar.gz"), str(folder / "out"), "--allow-unsigned"])


def _verify(folder: Path) -> int:
    return cli.main(["verify", str(_bundle(folder / "bundle", HOSTILE)), "--allow-unsigned"])


def _sign(folder: Path) -> int:
    cli.main(["keygen", str(folder / "k")])
    return cli.main(["sign", str(_bundle(folder / "bundle", HOSTILE)), "--key", str(folder / "k.key")])


def _report(folder: Path) -> int:
    write_run(folder / "run", grown_report(name=HOSTILE))
    return cli.main(["report", str(folder / "run")])


def _attack(folder: Path) -> int:
    """Of a threat that no bundle can show, so that nothing runs and the evidence alone is told."""
    of_one_engine = {"engine": "x", "stages": {"engine x": "a" * 64}}
    _bundle(folder / "deploy", "deploy", **of_one_engine)
    threat = {"name": "membership", "tried": HOSTILE, "budget": HOSTILE, "figures": [], "of": "engine"}
    evidence = folder / "evidence"
    evidence.mkdir()
    write_json(
        evidence / "threats.json",
        {"format": FORMAT, "threats": [threat | {"lines": [HOSTILE], "not_shown": [HOSTILE]}]},
    )
    write_manifest(evidence, "evidence", {"name": "x", "device": "cpu", **of_one_engine})
    return cli.main(["attack", str(folder / "deploy"), "--threats", "membership", "--allow-unsigned"])


def _reproduce(folder: Path) -> int:
    return tell([Repeated(name=HOSTILE, came="differs", why=HOSTILE), Repeated(name="same", came="same", why="")])


def _profile(folder: Path) -> int:
    profile = folder / "mine.toml"
    title = json.dumps(load_profile("cpu").title)
    text = Path(agent.__file__).with_name("profiles").joinpath("cpu.toml").read_text()
    profile.write_text(text.replace(f"title = {title}", f"title = {json.dumps(HOSTILE)}", 1))
    return cli.main(["devices", "show", str(profile)])


@pytest.mark.parametrize("command", [_unpack, _verify, _sign, _report, _attack, _reproduce, _profile])
def test_texts_of_others_are_shown_harmlessly(
    command: Callable[[Path], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(tmp_path)
    said = capsys.readouterr()
    assert all(line.isprintable() for line in [*said.out.splitlines(), *said.err.splitlines()])
    assert "whole  all is well" not in said.out.splitlines()
    # It was said, and not left out.
    assert PLAIN in said.out + said.err
