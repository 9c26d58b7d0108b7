"""Preprocessing and copies stand beside pure inference."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from devices.engines.onnxruntime import OnnxRuntimeEngine
from devices.errors import DataError
from devices.host_costs import host_cost_lines, measure_host_costs
from devices.latency import LatencyConfig
from devices.preprocess import Preprocess
from tests.devices.parts import SIZE

SHORT = LatencyConfig(duration_s=0.05, warmup_s=0.01)
PREPROCESS = Preprocess(channels=1, height=SIZE, width=SIZE)


def test_each_part_has_its_own_latency(engine: OnnxRuntimeEngine) -> None:
    def slow(frame: NDArray[Any]) -> NDArray[np.float32]:
        time.sleep(0.002)
        return PREPROCESS(frame)

    found = measure_host_costs(engine, SHORT, slow, np.zeros((SIZE, SIZE), np.uint8))
    assert found.preprocess is not None
    assert found.preprocess.p50_ms.value > 2
    assert found.with_copies.p50_ms.value < 2
    # Arrays that are checked, converted and handed out take their time even on a CPU.
    assert found.copies_share.value > 0
    assert found.copies_share.low <= found.copies_share.value <= found.copies_share.high
    assert json.loads(json.dumps(found.as_dict()))["preprocess"]["p50_ms"]["value"] > 2
    assert [line.split()[0] for line in host_cost_lines(found.as_dict())] == [
        "inference",
        "with",
        "preprocessing",
        "copies",
    ]


def test_without_a_frame_there_is_no_preprocessing(engine: OnnxRuntimeEngine) -> None:
    found = measure_host_costs(engine, SHORT)
    assert found.preprocess is None
    assert found.as_dict()["preprocess"] is None
    assert len(host_cost_lines(found.as_dict())) == 3


def test_a_frame_that_the_preprocessing_refuses(engine: OnnxRuntimeEngine) -> None:
    with pytest.raises(DataError, match="has values of type"):
        measure_host_costs(engine, SHORT, PREPROCESS, np.zeros((SIZE, SIZE), np.int32))
