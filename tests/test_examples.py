"""The examples for CI: their commands, as they stand in the files, run on the drill recipe in a checkout of its own.

Three devices: this machine, a GPU that is not here, and a board behind a real ssh server. What talks to GitHub and
GitLab (`gh`, `curl`) is a stand-in that copies files; everything else is real.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest

from devices.fleet import BoardConfig
from exporters.keys import make_key
from tests import drill
from tests.devices.remote.sshd import SERVER, start_server, stop_server
from tests.devices.remote.test_bench_command import fleet_file
from tests.example_parts import (
    BOARD,
    DEVICES,
    PASSWORD,
    ROOT,
    Place,
    failed_cases,
    github_steps,
    gitlab_jobs,
    make_checkout,
    require_done,
    require_released,
    shell,
    variables,
)

ESPALIER = {"ESPALIER": ROOT.as_uri(), "PIP_NO_INDEX": "1", "PIP_DRY_RUN": "1", "PIP_NO_BUILD_ISOLATION": "0"}
GH = """#!/bin/sh -e
case $2 in
list) ls "$RELEASES" ;;
download) mkdir "$5"; cp "$RELEASES/$3"/$7 "$5" ;;
create) mkdir "$RELEASES/$3"; cp "$4" "$5" "$6" "$7" "$8" "$9" "${10}" "${12}" "$RELEASES/$3" ;;
esac
"""
CURL = """#!/bin/sh -e
while [ $# -gt 2 ]; do shift; done
echo "$2" > asked.txt
cp "$ARTIFACTS" "$1"
"""

_ASKED = os.environ.get("ESPALIER_REQUIRE_SYSTEM") == "1"
_NO_SERVER = "no sshd here: apt-get install openssh-server"

pytestmark = [
    pytest.mark.skipif(SERVER is None and not _ASKED, reason=_NO_SERVER),
    # That it is there where it has to be is asked by `tests/pipeline/test_ahead_chain.py`.
    pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed"),
]


@pytest.fixture(scope="module")
def place(drilled: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if SERVER is None:
        pytest.fail(f"{_NO_SERVER}; ESPALIER_REQUIRE_SYSTEM=1 asks for it")
    folder = tmp_path_factory.mktemp("shared")
    make_key(folder, "release", PASSWORD, date(2099, 1, 1))
    shutil.copytree(drilled[0], folder / "store")
    (folder / "bin").mkdir()
    for name, text in (("gh", GH), ("curl", CURL)):
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    (folder / "sshd").mkdir()
    server = start_server(folder / "sshd")
    board = BoardConfig(
        name="bench",
        host="board",
        device=BOARD,
        python=sys.executable,
        cache=str(folder / "board"),
        ssh_options=server.ssh_options,
    )
    fleet_file(board, folder)
    yield Place(folder, server)
    stop_server(server)


@pytest.fixture
def checkout(place: Place, tmp_path: Path) -> Path:
    return make_checkout(tmp_path / "checkout", place)


@dataclass(frozen=True)
class Released:
    """What the first release left."""

    checkout: Path
    releases: Path
    """Folder of releases by tag, as the stand-in for GitHub keeps them."""
    said: dict[str, str]
    """Standard output by step."""


@pytest.fixture(scope="module")
def released(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Released:
    """A tag on GitHub, without a release before it."""
    base = tmp_path_factory.mktemp("github")
    checkout = make_checkout(base / "checkout", place)
    (base / "releases").mkdir()
    set_there = variables("github-actions.yml", place) | {"RELEASES": str(base / "releases")}
    set_there |= {"GITHUB_STEP_SUMMARY": str(base / "summary.md"), "GITHUB_REF_NAME": "v1.2.3"} | ESPALIER
    said = {name: require_done(shell(script, checkout, place, **set_there)) for name, script in github_steps().items()}
    return Released(checkout, base / "releases", said)


def test_github_actions_releases_for_three_devices(released: Released) -> None:
    require_released(released.checkout / "dist" / "drill-1.2.3", "drill-1.2.3")
    assert "Would install espalier" in released.said["Install"]
    assert released.said["Release"].count("links: all match") == 3
    assert [failed_cases(released.checkout, run) for run in ("cpu", "rtx", "board")] == [[], [], []]
    summary = (released.checkout.parent / "summary.md").read_text()
    assert all(f"### drill on {device}: passed" in summary for device in DEVICES)
    published = {path.name for path in (released.releases / "v1.2.3").iterdir()}
    assert published == {path.name for path in (released.checkout / "dist" / "drill-1.2.3").iterdir()}


def on_board(place: Place, archive: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Unpack and verify an archive where it is used, over ssh, by the agent."""
    trust = place.folder / "release.trust.toml"
    words = ["ssh", *place.server.ssh_options, "board", "env", f"PYTHONPATH={ROOT}", sys.executable, "-m"]
    words += ["devices.agent", "unpack", str(archive), str(out), "--trust", str(trust)]
    return subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)


def test_a_release_is_verified_where_it_is_used_and_refused_with_one_byte_changed(
    released: Released, place: Place, tmp_path: Path
) -> None:
    archives = sorted((released.checkout / "dist" / "drill-1.2.3").glob("*.tar.gz"))
    shipped = [archive for archive in archives if "evidence" not in archive.name]
    for archive in shipped:
        require_done(on_board(place, archive, tmp_path / archive.name.removesuffix(".tar.gz")))
    # The engines verify; one byte of each in its place on the device, or on the way there, and they do not.
    for archive in shipped:
        folder = tmp_path / archive.name.removesuffix(".tar.gz")
        engine = next(path for path in sorted((folder / "engine").iterdir()) if path.suffix in (".onnx", ".plan"))
        _change_a_byte(engine, engine)
        verify = ["verify", str(folder), "--trust", str(place.folder / "release.trust.toml")]
        done = drill.espalier(verify, cwd=tmp_path)
        assert (done.returncode, "differs from the manifest" in done.stderr) == (7, True), done.stderr
    for archive in archives:
        broken = tmp_path / "broken" / archive.name
        broken.parent.mkdir(exist_ok=True)
        _change_a_byte(archive, broken)
        done = on_board(place, broken, tmp_path / "out")
        assert done.returncode == 7, done.stdout + done.stderr
        assert not (tmp_path / "out").exists()


def _change_a_byte(path: Path, copy: Path) -> None:
    """The byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(content)


def test_gitlab_ci_with_a_last_release_that_is_tampered_with_later(
    released: Released, place: Place, checkout: Path, tmp_path: Path
) -> None:
    jobs, artifacts = gitlab_jobs(), tmp_path / "artifacts.zip"
    with zipfile.ZipFile(artifacts, "w") as packed:
        for path in (released.checkout / "dist").rglob("*.*"):
            packed.write(path, path.relative_to(released.checkout))
    own = variables("gitlab-ci.yml", place) | {"ARTIFACTS": str(artifacts), "CI_COMMIT_TAG": "v1.3.0"}
    own |= {"CI_JOB_TOKEN": "x", "CI_API_V4_URL": "https://gitlab.example.com/api/v4", "CI_PROJECT_ID": "7"}
    git = "git -c user.name=a -c user.email=a@example.com"
    history = [f"{git} commit --quiet --allow-empty -m {tag} && git tag {tag}" for tag in ("v1.2.3", "v1.3.0")]
    require_done(shell("\n".join(["git init --quiet", *history]), checkout, place))
    require_done(shell("\n".join(jobs["judge"]), checkout, place, **own))
    assert (
        (checkout / "asked.txt").read_text().strip().endswith("/projects/7/jobs/artifacts/v1.2.3/download?job=release")
    )
    assert require_done(shell("\n".join(jobs["release"]), checkout, place, **own)).count("links: all match") == 3
    require_released(checkout / "dist" / "drill-1.3.0", "drill-1.3.0")
    notes = (checkout / "dist" / "drill-1.3.0" / "NOTES.md").read_text()
    assert notes.count("| since the last release | | |") == 3
    assert notes.count("paired by sample") == 4  # of those that ran
    assert [failed_cases(checkout, run) for run in ("cpu", "rtx", "board")] == [[], [], []]
    # A last release that is not the one that was signed is refused, by the gate and by the release.
    _repack(checkout / "last-release" / "drill-1.2.3-cpu.evidence.tar.gz", checkout)
    shutil.rmtree(checkout / "gate")
    for script in (jobs["judge"][2], jobs["release"][0]):
        done = shell(script, checkout, place, **own)
        assert done.returncode == 7
        assert "is not the one that was signed" in done.stderr


def _repack(archive: Path, scratch: Path) -> None:
    """Put another verdict into an archive, with a manifest that fits it."""
    from devices.archive import unpack
    from exporters.archive import write_archive
    from tests.pipeline.attest.resealed import reseal

    inside = scratch / "place"
    inside.mkdir()
    folder = unpack(archive, inside)
    (folder / "results" / "verdict.json").write_text(json.dumps({"passed": True, "budgets": []}))
    reseal(folder)
    write_archive(folder, archive, folder.name)


def test_a_refused_run_stops_both(place: Place, checkout: Path, tmp_path: Path) -> None:
    recipe = checkout / "recipes" / "drill.toml"
    recipe.write_text(recipe.read_text().replace("max_size_bytes = 100_000", "max_size_bytes = 10"))
    assert "max_size_bytes = 10\n" in recipe.read_text()
    steps, jobs = github_steps(), gitlab_jobs()
    own = variables("github-actions.yml", place) | {"BOARD": "", "GITHUB_REF_NAME": "v1.2.3"}
    own |= {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    require_done(shell(steps["Run"], checkout, place, **own))
    assert shell(steps["Gate"], checkout, place, **own).returncode == 10
    # What passed is judged too.
    assert [failed_cases(checkout, run) for run in ("cpu", "rtx")] == [["max_size_bytes"], []]
    require_done(shell(steps["Show"], checkout, place, **own))
    assert "**refused**" in (tmp_path / "summary.md").read_text()
    shutil.rmtree(checkout / "gate")
    assert shell(jobs["judge"][2], checkout, place, **own).returncode == 10
    for script, key in (
        (steps["Release"], {}),
        (jobs["release"][0], {"ESPALIER_KEY": str(place.folder / "release.key")}),
    ):
        done = shell(script, checkout, place, **(own | {"CI_COMMIT_TAG": "v1.2.3"} | key))
        assert done.returncode == 10
        assert not (checkout / "dist").exists()
