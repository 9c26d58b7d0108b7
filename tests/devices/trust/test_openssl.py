"""An `openssl` that hangs, cannot be run or is not there: one message, and nothing verifies."""

from __future__ import annotations

from pathlib import Path

import pytest

from devices.errors import BundleError
from devices.trust.openssl import openssl
from devices.trust.store import trust_in_key
from devices.trust.verify import verify_signature
from tests.devices.trust.signers import sign
from tests.devices.trust.verify_parts import NOW_S


def put_in_place(folder: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `openssl` is from now on."""
    folder.mkdir()
    (folder / "openssl").write_bytes(content)
    (folder / "openssl").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_one_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_place(tmp_path / "bin", b"#!/bin/sh\nexec /bin/sleep 60\n", monkeypatch)
    monkeypatch.setattr("devices.trust.openssl._TIMEOUT_S", 0.5)
    with pytest.raises(BundleError, match=r"signature: `openssl` did not end within 0\.5 s"):
        openssl(["version"], {})


def test_one_that_cannot_be_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_place(tmp_path / "bin", b"\x7fELF of another machine", monkeypatch)
    with pytest.raises(BundleError, match=r"signature: `openssl` cannot be run \(Exec format error\)"):
        openssl(["version"], {})


def test_without_it_nothing_verifies(folder: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = sign(folder, keys / "ours.key").read_bytes()
    trust = trust_in_key(keys / "ours.pub")
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(BundleError, match="this device has none"):
        verify_signature(content, "model.sig", trust, NOW_S)
