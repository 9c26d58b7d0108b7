from __future__ import annotations

from pathlib import Path

import pytest

from tests.devices.trust.signers import Authority, make_authority, make_key


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
