"""Files that are too large, or say so, even when they are signed: refused before they are taken into memory."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devices.bundle import MANIFEST, read_signature
from devices.classifier import ENGINE_INFO_PATH, ENGINE_PATH
from devices.detect import Host
from devices.errors import BundleError
from devices.robustness import read_sets
from devices.trust.envelope import SIGNATURE_FILE
from devices.trust.store import UNSIGNED, Trust
from tests.devices.trust.signers import sign
from tests.devices.trust.tamper_parts import refused, remake

LARGE = 16 << 20


def large(kind: str) -> bytes:
    return {
        "lists": b"[" * LARGE,
        "empty lists": b"[" + b"[]," * (LARGE // 3 - 2) + b"[]]",
        "objects": b'{"a":' * (LARGE // 5),
        "digits": b"9" * LARGE,
        "text": b'"' + b"x" * (LARGE - 2) + b'"',
        "too large": b" " * (LARGE + 1),
    }[kind]


@pytest.mark.parametrize("name", [MANIFEST, SIGNATURE_FILE])
@pytest.mark.parametrize("kind", ["lists", "empty lists", "objects", "digits", "text", "too large"])
def test_sixteen_mib_of_json(signed: Path, trust: Trust, host: Host, loaded: list[bytes], name: str, kind: str) -> None:
    (signed / name).write_bytes(large(kind))
    refused(signed, trust, host, loaded)
    if name == MANIFEST:
        refused(signed, UNSIGNED, host, loaded)


@pytest.mark.parametrize("name", [ENGINE_PATH, MANIFEST, SIGNATURE_FILE])
def test_a_file_of_a_terabyte_of_holes(signed: Path, trust: Trust, host: Host, loaded: list[bytes], name: str) -> None:
    with open(signed / name, "r+b") as stream:
        stream.truncate(1 << 40)
    refused(signed, trust, host, loaded)


@pytest.mark.parametrize("size_bytes", [1 << 62, 10**40, -1, 0])
def test_sizes_that_are_declared_huge(
    signed: Path, keys: Path, trust: Trust, host: Host, loaded: list[bytes], size_bytes: int
) -> None:
    remake(signed, lambda manifest: manifest["files"][0].update(size_bytes=size_bytes))
    sign(signed, keys / "ours.key")
    refused(signed, trust, host, loaded)


@pytest.mark.parametrize(
    "change",
    [
        {"input_shape": [1 << 40, 6, 6]},
        {"threads": 1 << 20},
        {"classes": 1 << 40},
        {"outputs": [["logits", [3, 1 << 40]]]},
        {"batches": [1, 1, 1 << 40]},
    ],
)
def test_a_signed_description_of_an_engine_of_huge_tensors(
    signed: Path, keys: Path, trust: Trust, host: Host, loaded: list[bytes], change: dict[str, Any]
) -> None:
    info = json.loads((signed / ENGINE_INFO_PATH).read_text())
    (signed / ENGINE_INFO_PATH).write_text(json.dumps(info | change))
    remake(signed)
    sign(signed, keys / "ours.key")
    refused(signed, trust, host, loaded)


@pytest.mark.parametrize("shape", [(1 << 62,), (1 << 31, 1 << 31), (1 << 20,) * 5, (10**9, 1, 8, 8)])
def test_an_array_that_declares_more_than_it_holds(evidence: Path, shape: tuple[int, ...]) -> None:
    buffer = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(buffer, header)
    index = json.loads((evidence / "sets" / "sets.json").read_text())

    def read(name: str) -> bytes:
        return buffer.getvalue() if name == "clean.npy" else (evidence / "sets" / name).read_bytes()

    with pytest.raises(BundleError, match=r"clean\.npy"):
        read_sets(index, read, "sets.json")


def test_a_signature_has_a_greatest_size(tmp_path: Path) -> None:
    content = bytes(LARGE)
    (tmp_path / SIGNATURE_FILE).write_bytes(content)
    assert read_signature(tmp_path) == content
    (tmp_path / SIGNATURE_FILE).write_bytes(content + b" ")
    with pytest.raises(BundleError, match="is larger than 16777216 bytes"):
        read_signature(tmp_path)
