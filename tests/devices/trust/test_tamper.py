"""Tampering with a signed bundle of a real engine: all of it is refused before the engine's loader is called."""

from __future__ import annotations

import base64
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.bundle import MANIFEST, open_bundle
from devices.classifier import ENGINE_INFO_PATH, ENGINE_PATH, LABELS_PATH, ONNX_PATH, load_verified
from devices.detect import Host
from devices.errors import BundleError
from devices.files import digest_file
from devices.trust.envelope import SIGNATURE_FILE
from devices.trust.store import Trust
from tests.devices.parts import build_engine, build_onnx, rows_kernel
from tests.devices.trust.signers import sign
from tests.devices.trust.tamper_parts import refused, remake

FILES = (ENGINE_INFO_PATH, ENGINE_PATH, LABELS_PATH, ONNX_PATH, "preprocess.json", MANIFEST, SIGNATURE_FILE)


def test_what_nobody_touched_reaches_the_loader(signed: Path, trust: Trust, host: Host, loaded: list[bytes]) -> None:
    load_verified(open_bundle(signed, "deploy", trust), host)
    assert loaded == [(signed / ENGINE_PATH).read_bytes()]


@given(st.sampled_from(FILES), st.data())
def test_any_byte_of_any_file(
    signed: Path, trust: Trust, host: Host, loaded: list[bytes], name: str, data: st.DataObject
) -> None:
    """Of the signature's file only what is signed, or proves it, must hold: its other bytes decide nothing."""
    path, original = signed / name, (signed / name).read_bytes()
    content = bytearray(original)
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        if name == SIGNATURE_FILE and _stands_for(bytes(content)) == _stands_for(original):
            return
        refused(signed, trust, host, loaded)
    finally:
        path.write_bytes(original)


def _stands_for(content: bytes) -> Any:
    """What of a signature's file decides."""
    try:
        raw = json.loads(content)
        envelope, material = raw["dsseEnvelope"], raw["verificationMaterial"]
        texts = (envelope["payload"], envelope["signatures"][0]["sig"])
        parts = [base64.b64decode(text, validate=True) for text in texts]
        key = material["publicKey"]["hint"]
        chains = material.get("x509CertificateChain"), material.get("certificate")
        return raw["mediaType"], envelope["payloadType"], len(envelope["signatures"]), parts, key, chains
    except (ValueError, KeyError, TypeError):
        return None


def test_engines_swapped_between_two_signed_bundles(
    signed: Path, tmp_path: Path, keys: Path, trust: Trust, host: Host, loaded: list[bytes]
) -> None:
    other = Path(shutil.copytree(signed, tmp_path / "other"))
    build_onnx(other / ONNX_PATH, rows_kernel() * 2)
    build_engine(other / "engine", other / ONNX_PATH, host)
    remake(other)
    sign(other, keys / "ours.key")
    assert open_bundle(other, "deploy", trust).signer
    swap = ((ENGINE_PATH,), (ENGINE_PATH, ENGINE_INFO_PATH), (ENGINE_PATH, ENGINE_INFO_PATH, MANIFEST))
    for names in (*swap, (SIGNATURE_FILE,)):
        mixed = Path(shutil.copytree(signed, tmp_path / f"mixed-{len(names)}-{names[0].replace('/', '-')}"))
        for name in names:
            shutil.copyfile(other / name, mixed / name)
        refused(mixed, trust, host, loaded)
        remake(mixed)
        assert "not the one that was signed" in str(refused(mixed, trust, host, loaded))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("same", [True, False])
def test_links_to_files(
    signed: Path, tmp_path: Path, trust: Trust, host: Host, loaded: list[bytes], name: str, same: bool
) -> None:
    """Even to the very same bytes: they could change later."""
    shutil.move(signed / name, tmp_path / "elsewhere")
    if not same:
        (tmp_path / "elsewhere").write_bytes(b"other")
    (signed / name).symlink_to(tmp_path / "elsewhere")
    assert "link" in str(refused(signed, trust, host, loaded))


def test_links_to_folders_at_the_end_in_the_middle_and_in_circles(
    signed: Path, tmp_path: Path, trust: Trust, host: Host, loaded: list[bytes]
) -> None:
    shutil.move(signed / "engine", tmp_path / "engine")
    for target in (tmp_path / "engine", signed, Path("engine")):
        (signed / "engine").symlink_to(target)
        assert "link" in str(refused(signed, trust, host, loaded))
        (signed / "engine").unlink()


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.update(name="other"),
        lambda manifest: manifest["files"].pop(),
        lambda manifest: manifest["files"].clear(),
        lambda manifest: manifest.pop("files"),
        lambda manifest: manifest.update(format="espalier-bundle/0"),
        lambda manifest: manifest.update(format="espalier-bundle/2"),
        lambda manifest: manifest.pop("format"),
    ],
)
def test_an_old_signature_on_a_new_manifest(
    signed: Path, trust: Trust, host: Host, loaded: list[bytes], change: Callable[[dict[str, Any]], None]
) -> None:
    """Other content, fewer files, an older or unknown format."""
    remake(signed, change)
    assert "not the one that was signed" in str(refused(signed, trust, host, loaded))


@pytest.mark.parametrize("named", ["espalier-bundle/0", "espalier-bundle", "espalier-bundle/2", "", None, 1])
def test_an_older_or_unknown_format_is_refused_even_when_it_is_signed(
    signed: Path, keys: Path, trust: Trust, host: Host, loaded: list[bytes], named: Any
) -> None:
    remake(signed, lambda manifest: manifest.update(format=named))
    sign(signed, keys / "ours.key")
    assert "has format" in str(refused(signed, trust, host, loaded))


def test_a_signed_manifest_that_lists_fewer_files(
    signed: Path, keys: Path, trust: Trust, host: Host, loaded: list[bytes]
) -> None:
    remake(signed, lambda manifest: manifest["files"].pop(0))
    sign(signed, keys / "ours.key")
    assert "not listed" in str(refused(signed, trust, host, loaded))


def test_a_signature_that_lists_fewer_files(
    signed: Path, tmp_path: Path, keys: Path, trust: Trust, host: Host, loaded: list[bytes]
) -> None:
    fewer = Path(shutil.copytree(signed, tmp_path / "fewer"))
    (fewer / LABELS_PATH).unlink()
    shutil.copyfile(sign(fewer, keys / "ours.key"), signed / SIGNATURE_FILE)
    assert "signed for other files" in str(refused(signed, trust, host, loaded))


def test_a_signature_taken_away(signed: Path, trust: Trust, host: Host, loaded: list[bytes]) -> None:
    (signed / SIGNATURE_FILE).unlink()
    assert "is not signed" in str(refused(signed, trust, host, loaded))


@pytest.mark.parametrize("name", [ENGINE_PATH, ENGINE_INFO_PATH, LABELS_PATH])
@pytest.mark.parametrize("how", ["replaced", "written over", "linked", "gone"])
def test_a_swap_between_verifying_and_loading(
    signed: Path, tmp_path: Path, trust: Trust, host: Host, loaded: list[bytes], name: str, how: str
) -> None:
    bundle = open_bundle(signed, "deploy", trust)
    evil = tmp_path / "evil"
    evil.write_bytes((signed / name).read_bytes().replace(b"o", b"0", 1))
    if how == "written over":
        shutil.copyfile(evil, signed / name)
    else:
        (signed / name).unlink()
    if how == "replaced":
        os.replace(evil, signed / name)
    if how == "linked":
        (signed / name).symlink_to(evil)
    with pytest.raises(BundleError, match=name):
        load_verified(bundle, host)
    assert loaded == []


def test_a_swap_that_goes_on_all_the_time(
    signed: Path, tmp_path: Path, trust: Trust, host: Host, loaded: list[bytes]
) -> None:
    """Whatever moment the other file is there: nothing but the engine that was signed reaches the loader."""
    good = (signed / ENGINE_PATH).read_bytes()
    evil = good[:-1] + bytes([good[-1] ^ 1])
    ended = threading.Event()

    def swap() -> None:
        while not ended.is_set():
            for content in (evil, good):
                (tmp_path / "next").write_bytes(content)
                os.replace(tmp_path / "next", signed / ENGINE_PATH)

    swapper = threading.Thread(target=swap)
    swapper.start()
    refusals = 0
    try:
        for _ in range(40):
            try:
                load_verified(open_bundle(signed, "deploy", trust), host)
            except BundleError:
                refusals += 1
    finally:
        ended.set()
        swapper.join()
    assert set(loaded) <= {good}
    assert refusals + len(loaded) == 40
    assert digest_file(signed / ENGINE_PATH)
