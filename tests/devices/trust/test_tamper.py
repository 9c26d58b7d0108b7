"""Tampering with a signed bundle of a real engine: all of it is refused before the engine's loader is called."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices import classifier
from devices.bundle import MANIFEST, open_bundle, write_manifest
from devices.classifier import ENGINE_INFO_PATH, ENGINE_PATH, LABELS_PATH, ONNX_PATH, load_verified
from devices.detect import Host
from devices.engines.onnx_external import require_self_contained
from devices.engines.onnxruntime import open_engine
from devices.errors import BundleError, DeviceError, EspalierError
from devices.files import digest_file
from devices.robustness import read_sets
from devices.trust.envelope import SIGNATURE_FILE
from devices.trust.store import UNSIGNED, Trust, trust_in_key
from tests.devices.parts import build_engine, build_onnx, rows_kernel
from tests.devices.trust.signers import sign

FILES = (ENGINE_INFO_PATH, ENGINE_PATH, LABELS_PATH, ONNX_PATH, "preprocess.json", MANIFEST, SIGNATURE_FILE)
LARGE = 16 << 20


@pytest.fixture(scope="module")
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


def refused(folder: Path, trust: Trust, host: Host, loaded: list[bytes]) -> EspalierError:
    with pytest.raises(EspalierError) as caught:
        load_verified(open_bundle(folder, "deploy", trust), host)
    assert loaded == []
    assert str(caught.value).isprintable()
    return caught.value


def remake(folder: Path, change: Callable[[dict[str, Any]], None] = lambda manifest: None) -> None:
    """Make the manifest agree with the files, then change it: what a tamperer without the key can do."""
    manifest = json.loads((folder / MANIFEST).read_text())
    write_manifest(folder, "deploy", {"name": manifest["name"], "device": manifest["device"]})
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


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


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "secret", "engine/../../secret"])
def test_a_signed_engine_with_weights_in_another_file(
    signed: Path, tmp_path: Path, keys: Path, host: Host, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime would look for them in the current folder, where nobody verified them."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for place in (folder / "secret", tmp_path / "secret"):
        rows_kernel().tofile(place)
    model = onnx.load(signed / ENGINE_PATH)
    (weights,) = (tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    weights.ClearField("raw_data")
    weights.ClearField("float_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    entry = weights.external_data.add()
    entry.key, entry.value = "location", location
    (signed / ENGINE_PATH).write_bytes(model.SerializeToString())
    remake(signed)
    sign(signed, keys / "ours.key")
    created: list[object] = []
    monkeypatch.setattr("devices.engines.ort_session._create", lambda *words: created.append(words))
    with pytest.raises(BundleError, match="other files"):
        load_verified(open_bundle(signed, "deploy", trust_in_key(keys / "ours.pub")), host)
    assert created == []


def external(tensor: onnx.TensorProto) -> onnx.TensorProto:
    tensor.external_data.add().key = "location"
    return tensor


def test_weights_in_another_file_are_found_wherever_they_hide() -> None:
    """In a sparse tensor, an attribute, a list of them, a graph within a node, a function, beside training."""
    hidden = external(onnx.TensorProto(name="w"))
    sparse = onnx.SparseTensorProto(values=hidden)
    attributes = [
        onnx.AttributeProto(t=hidden),
        onnx.AttributeProto(tensors=[onnx.TensorProto(), hidden]),
        onnx.AttributeProto(sparse_tensor=sparse),
        onnx.AttributeProto(sparse_tensors=[onnx.SparseTensorProto(indices=hidden)]),
        onnx.AttributeProto(g=onnx.GraphProto(initializer=[hidden])),
        onnx.AttributeProto(graphs=[onnx.GraphProto(sparse_initializer=[sparse])]),
    ]
    nodes = [onnx.NodeProto(attribute=[attribute]) for attribute in attributes]
    graphs = [onnx.GraphProto(node=[node]) for node in nodes]
    models = [onnx.ModelProto(graph=graph) for graph in graphs]
    models += [onnx.ModelProto(functions=[onnx.FunctionProto(node=[node])]) for node in nodes]
    models += [onnx.ModelProto(training_info=[onnx.TrainingInfoProto(algorithm=graph)]) for graph in graphs]
    location = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
    models.append(onnx.ModelProto(graph=onnx.GraphProto(initializer=[location])))
    for model in models:
        with pytest.raises(BundleError, match="other files"):
            require_self_contained(model.SerializeToString(), "engine")
    plain = onnx.TensorProto(raw_data=b"\x6a\x00" * 8, data_location=onnx.TensorProto.DEFAULT)
    require_self_contained(onnx.ModelProto(graph=onnx.GraphProto(initializer=[plain])).SerializeToString(), "engine")


def test_weights_in_another_file_do_not_hide_behind_bits_that_protocol_buffers_drop() -> None:
    """A key is of 32 bits; with one more set, the runtime's parser reads the field as if it were not."""
    graph = onnx.GraphProto(initializer=[external(onnx.TensorProto(name="w"))]).SerializeToString()
    # Of the key in five bytes, the last holds bits 28 to 34.
    key = bytes([7 << 3 | 2 | 0x80, 0x80, 0x80, 0x80, 0x10])
    with pytest.raises(DeviceError, match="no ONNX file"):
        require_self_contained(key + bytes([len(graph)]) + graph, "engine")


@given(st.binary(max_size=200))
def test_bytes_that_are_no_onnx_file_are_refused_or_hold_no_other_file(content: bytes) -> None:
    try:
        require_self_contained(content, "engine")
    except EspalierError:
        return
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except Exception:  # noqa: BLE001 - protobuf's implementations raise each their own
        return
    assert not any(tensor.external_data for tensor in model.graph.initializer)


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
