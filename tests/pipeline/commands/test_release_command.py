"""`espalier release` as a release engineer types it: who may have signed the last one, what is checked before runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from devices.errors import BundleError, StorageError
from exporters.archive import write_archive
from pipeline.cli import main
from tests.devices.trust.signers import make_authority
from tests.pipeline.attest.resealed import change_json, reseal

VERSION = "1.1.0"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of two keys, each with its public half and file of trust."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        assert main(["keygen", str(folder / name)]) == 0
    return folder


@pytest.fixture(scope="module")
def last(drilled: tuple[Path, Path], keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release that our key signed."""
    out = tmp_path_factory.mktemp("last")
    words = ["release", str(drilled[1]), "--version", "1.0.0", "--key", str(keys / "ours.key"), "--out", str(out)]
    assert main(words) == 0
    return out / "drill-1.0.0"


def words(run: Path, key: Path, out: Path, *more: str) -> list[str]:
    return ["release", str(run), "--version", VERSION, "--key", str(key), "--out", str(out), *more]


def refused(
    command: list[str], said: str, capsys: pytest.CaptureFixture[str], code: int = BundleError.exit_code
) -> None:
    capsys.readouterr()
    assert main(command) == code
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1


def test_a_baseline_is_trusted_that_the_signer_signed(
    drilled: tuple[Path, Path], keys: Path, last: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline = ("--baseline", str(last))
    assert main(words(drilled[1], keys / "ours.key", tmp_path, *baseline)) == 0
    assert "since the last release" in (tmp_path / f"drill-{VERSION}" / "NOTES.md").read_text()
    theirs = words(drilled[1], keys / "theirs.key", tmp_path / "other", *baseline)
    refused(theirs, "not trusted here", capsys)
    assert main([*theirs, "--trust", str(keys / "ours.trust.toml")]) == 0


def test_what_would_stop_it_is_known_before_any_run(
    keys: Path, last: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, key, baseline = tmp_path / "not-yet", keys / "ours.key", ("--baseline", str(last))
    assert main(words(run, key, tmp_path / "dist", *baseline, "--check")) == 0
    assert "last release:" in capsys.readouterr().out
    assert not (tmp_path / "dist").exists()
    refused(words(run, keys / "theirs.key", tmp_path, *baseline, "--check"), "not trusted here", capsys)
    refused(words(run, keys / "ours.pub", tmp_path, "--check"), "is no private key", capsys)
    (tmp_path / f"drill-{VERSION}").mkdir()
    refused(words(run, key, tmp_path, *baseline, "--check"), "is there already", capsys, StorageError.exit_code)
    refused([*words(run, key, tmp_path, "--check"), "--version", "1/2"], "is no version", capsys)
    monkeypatch.setenv("ESPALIER_KEY_PASSWORD", "another")
    refused(words(run, key, tmp_path, "--check"), "password", capsys)


def test_a_baseline_that_nobody_signed_is_taken_by_name(
    drilled: tuple[Path, Path], keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words(drilled[1], keys / "ours.key", tmp_path, "--baseline", str(drilled[1]), "--check")
    refused(command, "Pass --allow-unsigned", capsys)
    assert main([*command, "--allow-unsigned"]) == 0


def test_a_certificate_signs_a_release(
    drilled: tuple[Path, Path], last: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_authority(tmp_path / "root")
    below = root.below("house", tmp_path / "below")
    key, certificate = below.vouch("release")
    signer = ("--certificate", str(certificate), "--chain", str(root.folder / "house.pem"))
    command = words(drilled[1], key, tmp_path / "dist", *signer)
    refused([*command, "--baseline", str(last)], "--trust: is missing", capsys)
    old_key, old = below.vouch_between("old", "20200101000000Z", "20210101000000Z")
    expired = words(drilled[1], old_key, tmp_path / "dist", "--certificate", str(old))
    for more in ([], ["--check"]):
        refused([*expired, *more], "old.pem: has expired", capsys)
    assert not list(tmp_path.glob("dist/*"))
    assert main(command) == 0
    trust = tmp_path / "trust.toml"
    shutil.copy(root.roots, tmp_path / "root.pem")
    entry = '[[certificates]]\nname = "house"\nroots = "root.pem"\nsubjects = ["CN=release"]\n'
    trust.write_text(f"issued = 2026-01-01\n{entry}")
    archives = sorted(str(path) for path in (tmp_path / "dist").glob("*/*.tar.gz"))
    assert main(["verify", *archives, "--trust", str(trust)]) == 0
    assert capsys.readouterr().out.count("signed by house") == 2
    # The next one knows it as its last release.
    again = [*command, "--baseline", str(tmp_path / "dist" / f"drill-{VERSION}"), "--version", "1.2.0"]
    assert main([*again, "--trust", str(trust), "--check"]) == 0


def test_a_loss_is_accepted_of_one_device(
    drilled: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def smaller(raw: Any) -> None:
        raw["metrics"]["size_bytes"] -= 1

    shutil.copytree(drilled[1] / "evidence", tmp_path / "last")
    change_json(tmp_path / "last" / "manifest.json", smaller)
    reseal(tmp_path / "last")
    command = ["gate", str(drilled[1]), "--baseline", str(tmp_path / "last"), "--allow-unsigned"]
    assert main(command) == 10
    assert main([*command, "--accept", "rtx-4090:size"]) == 10
    for accepted in ("size", "cpu:size"):
        assert main([*command, "--accept", accepted]) == 0
    with pytest.raises(SystemExit):
        main([*command, "--accept", "cpu:speed"])
    assert "'speed' is none of accuracy, robust_accuracy, speedup, size, nor DEVICE:new" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--accept", "new"])
    assert "new is of one device: DEVICE:new" in capsys.readouterr().err
    # The baseline is of this device, so it is no new one.
    assert main([*command, "--accept", "cpu:new"]) == 10


def test_what_is_accepted_for_a_device_that_is_not_released_is_refused(
    drilled: tuple[Path, Path], keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name that was mistyped would accept nothing, and nobody would hear of it."""
    command = words(drilled[1], keys / "ours.key", tmp_path / "dist", "--accept")
    for device, name in (("cpuu", "new"), ("rtx-4090", "size")):
        said = f"--accept {device}:{name}: names '{device}', and the runs are for cpu. Name one of these"
        refused([*command, f"{device}:{name}"], said, capsys)
    assert not (tmp_path / "dist").exists()
    assert main([*command, "cpu:size"]) == 0


def test_a_device_that_the_last_release_does_not_have_is_accepted_by_name(
    drilled: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def other(raw: Any) -> None:
        raw["device"] = "kitchen"

    run, last = tmp_path / "run", tmp_path / "dist"
    shutil.copytree(drilled[1], run)
    change_json(run / "evidence" / "manifest.json", other)
    reseal(run / "evidence")
    last.mkdir()
    write_archive(drilled[1] / "evidence", last / "drill-1.0.0-cpu.evidence.tar.gz", "drill-1.0.0-cpu.evidence")
    files = [
        "--junit",
        str(tmp_path / "gate.xml"),
        "--markdown",
        str(tmp_path / "gate.md"),
        "--json",
        str(tmp_path / "j"),
    ]
    command = ["gate", str(run), "--allow-unsigned", *files, "--baseline"]
    for baseline in (last, drilled[1]):
        assert main([*command, str(baseline)]) == 7
        assert main([*command, str(baseline), "--accept", "cpu:new"]) == 7
        assert main([*command, str(baseline), "--accept", "kitchen:new"]) == 0
        assert "does not have this device: accepted as new" in capsys.readouterr().out
        for name in ("gate.xml", "gate.md"):
            assert "does not have this device: accepted as new" in (tmp_path / name).read_text()
        assert json.loads((tmp_path / "j").read_text())["new_device"] is True
    # Where no budget is asked for either, nothing is.
    change_json(run / "evidence" / "manifest.json", _without_budgets)
    reseal(run / "evidence")
    assert main([*command, str(last), "--accept", "kitchen:new"]) == 10
    assert "nothing was asked, so nothing is proven" in capsys.readouterr().out


def _without_budgets(raw: Any) -> None:
    raw["verdict"]["budgets"] = []
    raw["recipe"]["gate"] = dict.fromkeys(raw["recipe"]["gate"])
