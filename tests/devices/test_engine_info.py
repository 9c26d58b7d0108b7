"""The description beside an engine: what is optional, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.engine_files import ENGINE_FILE, PLAN_FILE, engine_name, read_engine, read_info, write_info
from devices.engines.base import EngineInfo
from devices.errors import BundleError

INFO = EngineInfo(
    runtime="tensorrt",
    runtime_version="10.3.0",
    provider="GPU",
    host_class="aarch64-linux",
    threads=1,
    input_name="image",
    input_shape=(3, 8, 8),
    output_name="logits",
    classes=10,
    onnx_sha256="0" * 64,
)
TEXTS = st.text(max_size=8)


@given(
    settings=st.lists(st.tuples(TEXTS, TEXTS), max_size=3).map(tuple),
    capability=st.sampled_from(("", "8.7")),
    batches=st.none() | st.tuples(*[st.integers(1, 512)] * 3).map(lambda sizes: tuple(sorted(sizes))),
)
def test_a_description_comes_back_from_its_json(settings: Any, capability: str, batches: Any) -> None:
    info = replace(INFO, settings=settings, compute_capability=capability, batches=batches)
    raw = json.loads(json.dumps(info.as_dict()))
    assert EngineInfo.from_dict(raw, "engine.json") == info
    assert ("settings" in raw, "compute_capability" in raw, "batches" in raw) == (
        bool(settings),
        bool(capability),
        batches is not None,
    )


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("settings", {"a": "b"}),
        ("settings", [["a"]]),
        ("settings", [["a", 1]]),
        ("settings", [["a", "b"]] * 257),
        ("compute_capability", 8.7),
        ("batches", [1, 2]),
        ("batches", [4, 2, 8]),
        ("batches", [0, 1, 2]),
        ("batches", [1, 1, 1 << 32]),
        ("batches", [True, 1, 1]),
    ],
)
def test_wrong_values_of_optional_fields_are_named(key: str, bad: Any) -> None:
    raw = json.loads(json.dumps(INFO.as_dict()))
    with pytest.raises(BundleError, match=key):
        EngineInfo.from_dict(raw | {key: bad}, "engine.json")


def test_the_runtime_decides_the_files_name(tmp_path: Path) -> None:
    assert engine_name(INFO) == engine_name(replace(INFO, runtime="tensorrt_rtx")) == PLAN_FILE
    assert engine_name(replace(INFO, runtime="onnxruntime")) == ENGINE_FILE
    (tmp_path / PLAN_FILE).write_bytes(b"plan")
    write_info(tmp_path, INFO)
    assert read_engine(tmp_path) == (b"plan", INFO)
    assert read_info(tmp_path) == INFO
    (tmp_path / PLAN_FILE).unlink()
    with pytest.raises(BundleError, match=PLAN_FILE):
        read_engine(tmp_path)
