from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from devices import classifier
from devices.detect import Host
from devices.engines.onnxruntime import open_engine
from devices.trust.store import Trust, trust_in_key
from tests.devices.trust.signers import Authority, make_authority, make_key, sign


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the keys `ours` and `theirs`, on P-256, and `long`, on P-384."""
    folder = tmp_path_factory.mktemp("keys")
    for name, curve in (("ours", "prime256v1"), ("theirs", "prime256v1"), ("long", "secp384r1")):
        make_key(folder, name, curve)
    return folder


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "authority")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Something to sign."""
    place = tmp_path / "something"
    (place / "engine").mkdir(parents=True)
    (place / "engine" / "engine.onnx").write_bytes(b"weights")
    (place / "labels.json").write_text('["a"]')
    return place


@pytest.fixture(scope="session")
def _signed(tmp_path_factory: pytest.TempPathFactory, _deploy: Path, keys: Path) -> Path:
    folder = tmp_path_factory.mktemp("signed") / "deploy"
    shutil.copytree(_deploy, folder)
    sign(folder, keys / "ours.key")
    return folder


@pytest.fixture
def signed(_signed: Path, tmp_path: Path) -> Path:
    """A signed deploy bundle of one's own, to spoil at will."""
    return Path(shutil.copytree(_signed, tmp_path / "signed"))


@pytest.fixture
def trust(keys: Path) -> Trust:
    return trust_in_key(keys / "ours.pub")


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What reached the engine's loader, which loads all the same."""
    reached: list[bytes] = []

    def load(content: bytes, info: Any, host: Host, _kernels: Path | None) -> Any:
        reached.append(content)
        return open_engine(content, info, host)

    monkeypatch.setattr(classifier, "open_engine", load)
    return reached
