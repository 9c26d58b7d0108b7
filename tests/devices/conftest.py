"""Fixtures for the tests of `devices`: engines and bundles made of `parts`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from devices.bundle import write_manifest
from devices.classifier import ENGINE_INFO_PATH, ENGINE_PATH, LABELS_PATH, ONNX_PATH, PREPROCESS_PATH
from devices.detect import Host, detect_host
from devices.engine_files import ENGINE_FILE, INFO_FILE, read_engine
from devices.engines.base import EngineInfo
from devices.engines.onnxruntime import OnnxRuntimeEngine, open_engine
from devices.files import write_json
from devices.robustness import EvaluationSets
from tests.devices.parts import CLASSES, SIZE, build_engine, build_onnx, build_sets, write_sets
from tests.devices.pythons import OLDEST_NUMPY, find_python, make_board_python

ROWS: dict[str, object] = {
    "name": "rows",
    "device": "cpu",
    "engine": "rows",
    "stages": {"engine rows": "a" * 64},
}
"""What the manifests of deploy and evidence say, of one engine."""


@pytest.fixture(scope="session")
def host() -> Host:
    """This machine."""
    return detect_host()


@pytest.fixture(scope="session")
def onnx_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network's ONNX file."""
    return build_onnx(tmp_path_factory.mktemp("onnx") / "rows.onnx")


@pytest.fixture(scope="session")
def engine_folder(tmp_path_factory: pytest.TempPathFactory, onnx_path: Path, host: Host) -> Path:
    """A folder with the network's engine."""
    folder = tmp_path_factory.mktemp("engine")
    build_engine(folder, onnx_path, host)
    return folder


@pytest.fixture(scope="session")
def engine_info(engine_folder: Path) -> EngineInfo:
    """What the engine needs."""
    return read_engine(engine_folder)[1]


@pytest.fixture
def engine(engine_folder: Path, host: Host) -> OnnxRuntimeEngine:
    """The engine, open."""
    return open_engine(*read_engine(engine_folder), host)


@pytest.fixture
def sets() -> EvaluationSets:
    """Sets on which the network's answers are known."""
    return build_sets()


@pytest.fixture(scope="session")
def _deploy(tmp_path_factory: pytest.TempPathFactory, onnx_path: Path, engine_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "deploy"
    (folder / ENGINE_PATH).parent.mkdir(parents=True)
    shutil.copyfile(engine_folder / ENGINE_FILE, folder / ENGINE_PATH)
    shutil.copyfile(engine_folder / INFO_FILE, folder / ENGINE_INFO_PATH)
    shutil.copyfile(onnx_path, folder / ONNX_PATH)
    write_json(folder / PREPROCESS_PATH, {"channels": 1, "height": SIZE, "width": SIZE})
    write_json(folder / LABELS_PATH, list(CLASSES))
    write_manifest(folder, "deploy", ROWS)
    return folder


@pytest.fixture
def deploy(_deploy: Path, tmp_path: Path) -> Path:
    """A deploy bundle of one's own, to spoil at will."""
    return Path(shutil.copytree(_deploy, tmp_path / "deploy"))


@pytest.fixture
def evidence(tmp_path: Path) -> Path:
    """An evidence bundle of one's own, to spoil at will."""
    folder = tmp_path / "evidence"
    (folder / "sets").mkdir(parents=True)
    write_sets(folder / "sets", build_sets())
    write_manifest(folder, "evidence", ROWS)
    return folder


@pytest.fixture
def seal() -> Callable[[Path], None]:
    """Make the manifest of a changed bundle agree with its files again."""

    def again(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        write_manifest(folder, manifest["kind"], ROWS)

    return again


@pytest.fixture
def jetson(host: Host) -> Host:
    """A Jetson AGX Orin 64 GB as it describes itself."""
    return replace(
        host,
        machine="aarch64",
        cpu_model="ARMv8 Processor rev 1 (v8l)",
        cpu_isa="neon",
        cpu_has_vnni=True,
        cpus=12,
        memory_bytes=65_893_888_000,
        device_tree_model="NVIDIA Jetson AGX Orin Developer Kit",
        gpus=("Orin (nvgpu)",),
        runtimes={"tensorrt": "10.3.0"},
    )


@pytest.fixture(autouse=True)
def _affinity() -> Iterator[None]:
    """No test leaves the process pinned."""
    before = os.sched_getaffinity(0)
    yield
    after = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before)
    assert after == before


@pytest.fixture(scope="session")
def python310(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python 3.10 with numpy and ONNX Runtime alone."""
    return make_board_python(tmp_path_factory.mktemp("python310") / "venv", _python310())


@pytest.fixture(scope="session")
def oldest_numpy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same with the oldest numpy that a board may have."""
    return make_board_python(tmp_path_factory.mktemp("oldest") / "venv", _python310(), OLDEST_NUMPY)


def _python310() -> str:
    found = find_python("3.10")
    if found is None:
        pytest.skip("no Python 3.10 here")
    return found
