"""One network and its graphs, made once; tests do not change them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pipeline.datasets.digits import digits
from pipeline.threats.edge.subject import Images, Subject
from tests.pipeline.threats.edge.parts import images_of, make_pair, trained


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Small tensors: a second thread only waits for the first, and longer when others run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Subject, Subject]:
    """A trained network in FP32 and INT8."""
    dataset = digits()
    return make_pair(trained(dataset), dataset, tmp_path_factory.mktemp("edge"))


@pytest.fixture(scope="session")
def images() -> Images:
    """Digits to make attacks on, and others to judge them."""
    return images_of()
