"""The examples for CI: their commands, as they stand in the files, run on the drill recipe in a checkout of its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporters.keys import make_key
from tests import drill

EXAMPLES = Path(__file__).parent.parent / "examples"
PASSWORD = "of the key"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the key of the project, its public half and the file of trust."""
    from datetime import date

    folder = tmp_path_factory.mktemp("key")
    make_key(folder, "release", PASSWORD, date(2099, 1, 1))
    return folder


@pytest.fixture
def checkout(drilled: tuple[Path, Path], key: Path, tmp_path: Path) -> Path:
    """A project with a recipe, the files of trust, and the store that CI keeps."""
    folder = tmp_path / "checkout"
    shutil.copytree(drill.DRILL.parent, folder / "recipes")
    shutil.copytree(drilled[0], folder / ".espalier" / "store")
    for name in ("release.pub", "release.trust.toml"):
        shutil.copy(key / name, folder / name)
    return folder


def shell(script: str, checkout: Path, options: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a CI's runner does."""
    environment = drill.environment() | {"RECIPE": "recipes/drill.toml", "DEVICE": "cpu", "BASELINE": "last-release"}
    environment["PATH"] = f"{drill.ESPALIER.parent}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        ["bash", *options, "-c", script],
        cwd=checkout,
        env=environment | {"ESPALIER_KEY_PASSWORD": PASSWORD} | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def github_steps() -> list[dict[str, Any]]:
    """Steps that run commands, but for the one that installs from the network."""
    workflow = yaml.safe_load((EXAMPLES / "github-actions.yml").read_text())
    steps = [step for step in workflow["jobs"]["release"]["steps"] if "run" in step]
    assert [step["name"] for step in steps] == ["Install", "Run", "Gate", "Show", "Release"]
    assert steps[0]["run"].startswith("pip install")
    return steps[1:]


def gitlab_scripts() -> list[str]:
    jobs = yaml.safe_load((EXAMPLES / "gitlab-ci.yml").read_text())
    assert [line.split()[:2] for line in jobs["default"]["before_script"]] == [["pip", "install"]]
    return ["\n".join(jobs[name]["script"]) for name in ("judge", "release")]


def require_released(checkout: Path) -> None:
    """The release is whole: archives, notes, checksums, and JUnit's file."""
    folder = checkout / "dist" / "drill-1.2.3"
    names = {path.name for path in folder.iterdir()}
    assert names == {"drill-1.2.3-cpu.tar.gz", "drill-1.2.3-cpu.evidence.tar.gz", "NOTES.md", "SHA256SUMS"}
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    cases = ET.parse(checkout / "gate.xml").getroot().iter("testcase")
    assert [case.find("failure") for case in cases] == [None, None]


def test_github_actions(checkout: Path, key: Path, tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    secrets = {"ESPALIER_KEY": (key / "release.key").read_text(), "GITHUB_REF_NAME": "v1.2.3"}
    for step in github_steps():
        # Its shell, as GitHub documents it.
        done = shell(step["run"], checkout, ["-eo", "pipefail"], GITHUB_STEP_SUMMARY=str(summary), **secrets)
        assert done.returncode == 0, step["name"] + done.stdout + done.stderr
    require_released(checkout)
    assert "links: all match" in done.stdout
    assert summary.read_text() == (checkout / "gate.md").read_text()


def test_gitlab_ci_with_a_last_release_that_is_tampered_with_later(checkout: Path, key: Path) -> None:
    judge, release = gitlab_scripts()
    variables = {"ESPALIER_KEY": str(key / "release.key"), "CI_COMMIT_TAG": "v1.2.3"}
    for script in (judge, release):
        done = shell(script, checkout, ["-eo", "pipefail"], **variables)
        assert done.returncode == 0, done.stdout + done.stderr
    require_released(checkout)
    # The next commit is compared with it ...
    shutil.move(checkout / "dist" / "drill-1.2.3", checkout / "last-release")
    done = shell(judge, checkout, ["-eo", "pipefail"], **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "paired by sample" in done.stdout
    assert len(list(ET.parse(checkout / "gate.xml").getroot().iter("testcase"))) == 6
    # ... and a last release that is not the one that was signed is refused.
    evidence = checkout / "last-release" / "drill-1.2.3-cpu.evidence.tar.gz"
    _repack(evidence, checkout)
    done = shell(judge, checkout, ["-eo", "pipefail"], **variables)
    assert done.returncode == 7
    assert "is not the one that was signed" in done.stderr


def _repack(archive: Path, scratch: Path) -> None:
    """Put another verdict into an archive, with a manifest that fits it."""
    from devices.archive import unpack
    from exporters.archive import write_archive
    from tests.pipeline.attest.resealed import reseal

    place = scratch / "place"
    place.mkdir()
    folder = unpack(archive, place)
    (folder / "results" / "verdict.json").write_text(json.dumps({"passed": True, "budgets": []}))
    reseal(folder)
    write_archive(folder, archive, folder.name)


def test_a_refused_run_stops_both(checkout: Path, key: Path) -> None:
    recipe = checkout / "recipes" / "drill.toml"
    recipe.write_text(recipe.read_text().replace("max_size_bytes = 100_000", "max_size_bytes = 10"))
    assert "max_size_bytes = 10\n" in recipe.read_text()
    run, gate, show, release = (step["run"] for step in github_steps())
    assert shell(gitlab_scripts()[0], checkout, ["-eo", "pipefail"]).returncode == 10
    assert shell(run, checkout, ["-eo", "pipefail"]).returncode == 0
    assert shell(gate, checkout, ["-eo", "pipefail"]).returncode == 10
    failed = [
        case.get("name") for case in ET.parse(checkout / "gate.xml").iter("testcase") if len(case.findall("failure"))
    ]
    assert failed == ["max_size_bytes"]
    assert shell(show, checkout, ["-eo", "pipefail"], GITHUB_STEP_SUMMARY="summary.md").returncode == 0
    assert "**refused**" in (checkout / "summary.md").read_text()
    secrets = {"ESPALIER_KEY": (key / "release.key").read_text(), "GITHUB_REF_NAME": "v1.2.3"}
    assert shell(release, checkout, ["-eo", "pipefail"], **secrets).returncode == 10
    assert not (checkout / "dist").exists()
