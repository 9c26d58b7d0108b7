"""The base install, as on a board: a bare virtual environment of every Python that is here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from devices.bundle import open_bundle
from devices.trust.store import UNSIGNED

ROOT = Path(__file__).parent.parent
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
THREE_LINES = """
import devices, numpy
classify = devices.load({bundle!r}, allow_unsigned=True)
print(classify(numpy.zeros((8, 8), dtype=numpy.uint8)).label)
"""


# Bytes of what the base install brings beside numpy; the engine runtime is an extra.
SIZE = """
import importlib.metadata, os, re
needed = [re.match(r"[\\w.-]+", text)[0] for text in importlib.metadata.requires("espalier") if "extra ==" not in text]
found = {dist.metadata["Name"].lower() for dist in importlib.metadata.distributions()}
counted = ["espalier", *(name for name in needed if name != "numpy" and name.lower() in found)]
places = [file.locate() for name in counted for file in importlib.metadata.files(name)]
print(sum(os.stat(place).st_size for place in places if os.path.isfile(place)))
"""
MOST_BYTES = 10_000_000


def interpreter(version: str) -> str | None:
    """A Python of this version that really starts, or None."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    installed = sorted(str(path) for path in pyenv.glob(f"versions/{version}.*/bin/python"))
    ours = [sys.executable] if sys.version_info[:2] == tuple(map(int, version.split("."))) else []
    for name in [*ours, f"python{version}", *installed]:
        try:
            done = subprocess.run([name, "-c", "import venv, ensurepip"], capture_output=True, check=False)
        except OSError:
            continue
        if done.returncode == 0:
            return name
    return None


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distribution, built from a copy so that nothing is left in the checkout."""
    base = tmp_path_factory.mktemp("wheel")
    source = base / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    for name in ("pipeline", "exporters", "devices"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(base), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (found,) = base.glob("*.whl")
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_base_install(version: str, wheel: Path, drilled: tuple[Path, Path], tmp_path: Path) -> None:
    """Numpy and the engine runtime only: detect, bench and the three lines work; what needs torch says so."""
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} here")
    subprocess.run([python, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    binaries = tmp_path / "venv" / "bin"
    constraints = ROOT / "constraints" / f"py{version.replace('.', '')}.txt"
    pip = [sys.executable, "-m", "pip", "--python", str(binaries / "python")]
    install = [*pip, "install", "--quiet", "--disable-pip-version-check", "-c", str(constraints)]
    # What the runtime brings along is large, and only what is ours is counted with its bytecode.
    subprocess.run([*install, "--no-compile", "onnxruntime"], check=True, capture_output=True)
    subprocess.run([*install, f"{wheel}[onnxruntime]"], check=True, capture_output=True)

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(binaries / command[0]), *command[1:]], capture_output=True, text=True, cwd=tmp_path, check=False
        )

    heavy = "import importlib.util as u; print([m for m in ('torch', 'onnx', 'pydantic', 'sklearn') if u.find_spec(m)])"
    assert run("python", "-c", heavy).stdout.strip() == "[]"
    # More than a megabyte, or it was not counted.
    assert 1_000_000 < int(run("python", "-c", SIZE).stdout) <= MOST_BYTES
    detected = json.loads(run("espalier-agent", "detect", "--json").stdout)
    assert "cpu" in detected["profiles"]
    assert detected["host"]["python"].startswith(version)
    assert "cpu" in run("espalier", "devices", "list").stdout
    refused = run("espalier", "run", "recipe.toml")
    assert refused.returncode == 6
    assert "pip install '.[compress]'" in refused.stderr
    _check_engine(run, drilled[1] / "deploy", detected["host"]["runtimes"]["onnxruntime"])


def _check_engine(run: object, deploy: Path, installed: str) -> None:
    """The engine runs where the runtime is the one it was built with, and is refused by name elsewhere."""
    built = open_bundle(deploy, "deploy", UNSIGNED).read_json("engine/engine.json")["runtime_version"]
    bench = run("espalier-agent", "bench", str(deploy), "--allow-unsigned", "--seconds", "0.2", "--json")  # type: ignore[operator]
    answer = run("python", "-c", THREE_LINES.format(bundle=str(deploy)))  # type: ignore[operator]
    if built.split(".")[:2] != installed.split(".")[:2]:
        assert bench.returncode == 6
        assert f"was built with ONNX Runtime {built}, and {installed} is installed here" in bench.stderr
        return
    assert bench.returncode == 0, bench.stderr
    result = json.loads(bench.stdout)
    assert result["latency"]["p50_ms"]["low"] <= result["latency"]["p50_ms"]["value"]
    assert result["footprint"]["peak_memory_bytes"] > 0
    assert answer.stdout.strip() in [str(digit) for digit in range(10)]
