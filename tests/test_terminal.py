"""What others wrote into bundles, runs, profiles and evidence reaches the terminal without its escape codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from devices import agent
from devices.bundle import write_manifest
from devices.detect import detect_host
from devices.files import write_json
from devices.profile import load_profile
from devices.robustness import INDEX_FILE, LABELS_FILE
from exporters.archive import write_archive
from pipeline import cli
from pipeline.attest.repeat import Repeated
from pipeline.commands.reproduce import tell
from pipeline.threats.report import FORMAT
from tests.devices.parts import CLASSES, SIZE, build_engine, build_onnx
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


def _keygen(folder: Path) -> int:
    return cli.main(["keygen", str(folder / HOSTILE / "k")])


def _release(folder: Path) -> int:
    """Before any run, with a last release that others made."""
    cli.main(["keygen", str(folder / "k")])
    evidence = folder / "evidence"
    write_json(evidence / "report.json", {"measured": False, "baseline": "x", "board": None})
    write_json(evidence / "sets" / INDEX_FILE, {"sets": []})
    for name in ("clean.npy", LABELS_FILE):
        (evidence / "sets" / name).write_bytes(b"x")
    content: dict[str, Any] = {"name": "x", "device": HOSTILE, "engine": "x", "task": {"kind": "classification"}}
    content |= {"metrics": {"size_bytes": 1}, "verdict": {"budgets": []}, "recipe": {"robustness": {}, "gate": {}}}
    write_manifest(evidence, "evidence", content)
    words = ["release", str(folder / "run"), "--version", "2", "--key", str(folder / "k.key"), "--check"]
    return cli.main([*words, "--baseline", str(evidence), "--allow-unsigned"])


def _index(folder: Path) -> int:
    write_run(folder / HOSTILE / "run", grown_report())
    return cli.main(["index", str(folder / HOSTILE)])


def _compare(folder: Path) -> int:
    run = folder / "run"
    write_run(run, grown_report())
    return cli.main(["compare", str(run), str(run), "--out", str(folder / HOSTILE / "both.html")])


def _engine(folder: Path) -> Path:
    """A deploy bundle whose engine runs."""
    deploy = folder / "deploy"
    deploy.mkdir()
    build_engine(deploy / "engine", build_onnx(deploy / "model.onnx"), detect_host())
    write_json(deploy / "labels.json", list(CLASSES))
    write_json(deploy / "preprocess.json", {"channels": 1, "height": SIZE, "width": SIZE})
    named = {"name": HOSTILE, "device": HOSTILE, "engine": HOSTILE}
    write_manifest(deploy, "deploy", {**named, "stages": {f"engine {HOSTILE}": "a" * 64}})
    return deploy


def _layers(folder: Path) -> int:
    return agent.main(["layers", str(_engine(folder)), "--allow-unsigned"])


def _bench(folder: Path) -> int:
    return agent.main(["bench", str(_engine(folder)), "--seconds", "0.05", "--allow-unsigned"])


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


def _told(command: Callable[[Path], int], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What it prints, harmless as that must be."""
    command(folder)
    said = capsys.readouterr()
    assert all(line.isprintable() for line in [*said.out.splitlines(), *said.err.splitlines()])
    assert "whole  all is well" not in said.out.splitlines()
    return said.out + said.err


_COMMANDS = [_unpack, _verify, _sign, _keygen, _release, _index, _compare, _report, _attack, _reproduce, _profile]


@pytest.mark.parametrize("command", _COMMANDS)
def test_texts_of_others_are_shown_harmlessly(
    command: Callable[[Path], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # It was said, and not left out.
    assert PLAIN in _told(command, tmp_path, capsys)


@pytest.mark.parametrize("command", [_layers, _bench])
def test_figures_of_an_engine_are_told_without_escape_codes(
    command: Callable[[Path], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "x[2J]0;owned" in _told(command, tmp_path, capsys)
