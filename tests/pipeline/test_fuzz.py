"""Readers of recipes, profiles, bundles and the like take any input without a traceback or a hang.

`make fuzz` tries more, each reader within 1 GiB of memory.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import Reader, case, fault_of
from tests.fuzz_readers import readers

COUNT = 64


@pytest.fixture(scope="module")
def all_readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    return {reader.name: reader for reader in readers(tmp_path_factory.mktemp("fuzz") / "valid")}


def test_what_is_valid_is_read(all_readers: dict[str, Reader], tmp_path: Path) -> None:
    """Otherwise nothing but the first line of a reader would be tried."""
    for name, reader in all_readers.items():
        for content in reader.valid:
            folder = tmp_path / name.replace("/", "-")
            folder.mkdir(exist_ok=True)
            reader.read(content, folder)


@pytest.mark.parametrize("seed", [1])
def test_mutated_inputs_are_read_or_refused(all_readers: dict[str, Reader], tmp_path: Path, seed: int) -> None:
    assert len(all_readers) == 16
    assert COUNT * len(all_readers) > 1000
    for reader in all_readers.values():
        for index in range(COUNT):
            content = case(reader, seed, index)
            assert fault_of(reader, content, tmp_path / "case") is None, (reader.name, seed, index)
