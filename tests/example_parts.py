"""Parts of the tests of the examples for CI: a checkout, the commands of the files, and what a release must hold."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests import drill
from tests.devices.remote.sshd import Server

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
PASSWORD = "of the key"
BOARD = "cpu-aarch64" if platform.machine() == "aarch64" else "cpu-x86-64"
DEVICES = (BOARD, "cpu", "rtx-4090")


@dataclass(frozen=True)
class Place:
    """What all checkouts share."""

    folder: Path
    """With the project's key, its public half and file of trust; the store; `fleet.toml`; `bin` with the stand-ins."""
    server: Server


def make_checkout(folder: Path, place: Place) -> Path:
    """A project with a recipe, the board, the files of trust, and the store that CI keeps."""
    shutil.copytree(drill.DRILL.parent, folder / "recipes")
    (folder / ".espalier").mkdir()
    (folder / ".espalier" / "store").symlink_to(place.folder / "store")
    for name in ("release.pub", "release.trust.toml", "fleet.toml"):
        shutil.copy(place.folder / name, folder / name)
    return folder


def variables(example: str, place: Place) -> dict[str, str]:
    """Those that the file sets, with the recipe and the board of the tests, and the secrets."""
    content = yaml.safe_load((EXAMPLES / example).read_text())
    own = {name: str(value) for name, value in (content.get("env") or content["variables"]).items()}
    assert own["ESPALIER"].startswith("git+https://example.com/")
    key = place.folder / "release.key"
    secret = key.read_text() if "github" in example else str(key)
    secrets = {"ESPALIER_KEY": secret, "ESPALIER_KEY_PASSWORD": PASSWORD}
    return own | {"RECIPE": "recipes/drill.toml", "BOARD": "bench"} | secrets


def shell(script: str, checkout: Path, place: Place, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a CI's runner does, in its shell as it is documented."""
    environment = drill.environment()
    environment["PATH"] = os.pathsep.join((str(place.folder / "bin"), str(drill.ESPALIER.parent), environment["PATH"]))
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script],
        cwd=checkout,
        env=environment | more,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )


def require_done(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def github_steps() -> dict[str, str]:
    """Commands by the name of their step."""
    workflow = yaml.safe_load((EXAMPLES / "github-actions.yml").read_text())
    steps = {step["name"]: step["run"] for step in workflow["jobs"]["release"]["steps"] if "run" in step}
    assert list(steps) == ["Install", "Last release", "Run", "Gate", "Show", "Release", "Publish"]
    return steps


def gitlab_jobs() -> dict[str, list[str]]:
    """Commands by job."""
    content = yaml.safe_load((EXAMPLES / "gitlab-ci.yml").read_text())
    assert content["stages"] == ["judge", "release"]
    scripts = {name: content[name]["script"] for name in content["stages"]}
    assert {name: len(script) for name, script in scripts.items()} == {"judge": 3, "release": 2}
    # It is what the other example installs.
    assert content["default"]["before_script"][-1] == github_steps()["Install"]
    return scripts


def require_released(folder: Path, name: str) -> None:
    """The release is whole: archives, notes, checksums."""
    names = {path.name for path in folder.iterdir()}
    archives = {f"{name}-{device}{suffix}" for device in DEVICES for suffix in (".tar.gz", ".evidence.tar.gz")}
    assert names == archives | {"NOTES.md", "SHA256SUMS"}
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, file = line.split("  ")
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == digest
    notes = (folder / "NOTES.md").read_text()
    assert [notes.count(f"### drill on {device}: passed") for device in DEVICES] == [1, 1, 1]
    assert notes.count("Built ahead of time") == 1


def failed_cases(checkout: Path, run: str) -> list[str | None]:
    cases = ET.parse(checkout / "gate" / f"{run}.xml").iter("testcase")
    return [case.get("name") for case in cases if len(case.findall("failure"))]
