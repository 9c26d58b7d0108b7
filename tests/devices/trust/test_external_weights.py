"""Weights that an ONNX file keeps in another file, which nobody verified: refused wherever they hide."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.bundle import open_bundle
from devices.classifier import ENGINE_PATH, load_verified
from devices.detect import Host
from devices.engines.onnx_external import require_self_contained
from devices.errors import BundleError, DeviceError, EspalierError
from devices.trust.store import trust_in_key
from tests.devices.parts import rows_kernel
from tests.devices.trust.signers import sign
from tests.devices.trust.tamper_parts import remake


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
