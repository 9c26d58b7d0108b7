"""For all tests of `exporters`: one thread, and a network exported once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from exporters.onnx_export import export_onnx
from exporters.parity import ParityLimits
from tests.exporters.parts import network, samples


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Small tensors: a second thread only waits for the first, and longer when others run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def old_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network in opset 17, by PyTorch's older exporter: ten times quicker than the newer one."""
    path = tmp_path_factory.mktemp("old") / "model.onnx"
    export_onnx(network(), samples(), 17, path, ParityLimits(min_sqnr_db=60, min_agreement=1), threads=1)
    return path
