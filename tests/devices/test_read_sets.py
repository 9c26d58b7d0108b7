"""Evaluation sets read from their files: back as they were written, and every file that is refused by its name."""

from __future__ import annotations

import copy
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from devices.errors import BundleError
from devices.robustness import FORMAT, EvaluationSets, read_sets, sets_index
from tests.devices.parts import SAMPLES, Array, build_sets, write_sets

Files = dict[str, bytes]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Evaluation sets as bytes by name."""
    folder = tmp_path / "written"
    folder.mkdir()
    write_sets(folder, build_sets())
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def index() -> dict[str, Any]:
    return copy.deepcopy(sets_index(build_sets().infos))


def refused(index: Any, files: Files) -> BundleError:
    with pytest.raises(BundleError) as caught:
        read_sets(index, files.__getitem__, "sets.json")
    assert caught.value.where.startswith("sets.json")
    assert str(caught.value).isprintable()
    return caught.value


def npy(array: NDArray[Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def test_sets_come_back_as_they_were_written(files: Files) -> None:
    written, found = build_sets(), read_sets(index(), files.__getitem__, "sets.json")
    assert found.infos == written.infos
    np.testing.assert_array_equal(found.labels, written.labels)
    assert found.labels.dtype == np.int64
    assert list(found.images) == list(written.images)
    for name, images in written.images.items():
        np.testing.assert_array_equal(found.images[name], images)


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["labels.npy", "clean.npy", "pgd_dense.npy"])
def test_nothing_is_unpickled(files: Files, tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    pickled = npy(np.array([Canary(canary)] * SAMPLES, dtype=object), allow_pickle=True)
    for content in (pickled, pickle.dumps(Canary(canary))):
        assert name in refused(index(), files | {name: content}).where
    assert not canary.exists()


def test_an_archive_is_no_array(files: Files) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, clean=build_sets().images["clean"])
    assert "clean.npy" in refused(index(), files | {"clean.npy": buffer.getvalue()}).where
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    assert "clean.npy" in refused(index(), files | {"clean.npy": empty.getvalue()}).where


@given(st.sampled_from(["labels.npy", "clean.npy"]), st.data())
def test_a_damaged_array_is_refused_or_still_an_array(files: Files, name: str, data: st.DataObject) -> None:
    content = bytearray(files[name])
    position = data.draw(st.integers(0, 127))
    content[position] = data.draw(st.integers(0, 255))
    kept = data.draw(st.integers(0, len(content)))
    spoilt = {name: bytes(content[:kept] if data.draw(st.booleans()) else content)}
    found = _read(index(), files | spoilt)
    if isinstance(found, BundleError):
        assert found.where.startswith("sets.json")
    else:
        assert found.images["clean"].shape == (SAMPLES, 1, 6, 6)
        assert found.labels.shape == (SAMPLES,)


def test_a_header_that_promises_the_moon_is_refused(files: Files) -> None:
    content = files["clean.npy"].replace(b"(30, 1, 6, 6)", b"(10**9,)*3, }")
    assert "clean.npy" in refused(index(), files | {"clean.npy": content}).where
    moon = npy(np.zeros((1, 1, 1, 1), np.float32)).replace(b"(1, 1, 1, 1), }", b"(99999999999,),}")
    assert "clean.npy" in refused(index(), files | {"clean.npy": moon}).where


CLEAN: Array = build_sets().images["clean"]


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("clean.npy", CLEAN[0]),
        ("clean.npy", CLEAN[:0]),
        ("clean.npy", CLEAN.astype(np.float64)),
        ("clean.npy", CLEAN.astype(">f4")),
        ("clean.npy", np.where(CLEAN > 0.5, np.nan, CLEAN).astype(np.float32)),
        ("clean.npy", CLEAN + np.float32(0.5)),
        ("invert_1.npy", CLEAN - np.float32(0.5)),
        ("fgsm_dense.npy", CLEAN[:-1]),
        ("fgsm_dense.npy", CLEAN[:, :, :5]),
        ("fgsm_dense.npy", CLEAN.astype(np.uint8)),
        ("labels.npy", np.zeros(29, np.int64)),
        ("labels.npy", np.zeros((30, 1), np.int64)),
        ("labels.npy", np.zeros(30, np.float32)),
        ("labels.npy", np.full(30, "1")),
        ("labels.npy", np.full(30, -1)),
    ],
)
def test_an_array_of_another_shape_type_or_range_is_named(files: Files, name: str, array: NDArray[Any]) -> None:
    assert refused(index(), files | {name: npy(array)}).where == f"sets.json: {name}"


def test_labels_of_any_whole_type_are_read(files: Files) -> None:
    for kind in (np.uint8, np.int32, ">i8"):
        content = npy(build_sets().labels.astype(kind))
        assert read_sets(index(), (files | {"labels.npy": content}).__getitem__, "sets.json").labels.dtype == np.int64


@pytest.mark.parametrize(
    "bad",
    [
        None,
        [],
        "text",
        {},
        {"format": FORMAT},
        {"format": "espalier-sets/2", "sets": []},
        {"format": FORMAT, "sets": "clean"},
        {"format": FORMAT, "sets": []},
        {"format": FORMAT, "sets": [None]},
        {"format": FORMAT, "sets": index()["sets"][1:]},
        {"format": FORMAT, "sets": index()["sets"] * 2},
    ],
)
def test_another_index_is_refused(files: Files, bad: Any) -> None:
    refused(bad, files)


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("name", 3),
        ("name", "../clean"),
        ("name", ""),
        ("name", ".hidden"),
        ("name", "clean"),
        ("kind", "clean"),
        ("kind", "evasion"),
        ("kind", ["clean"]),
        ("method", None),
        ("surrogate", 3),
        ("epsilon", None),
        ("epsilon", 0.0),
        ("epsilon", 1.5),
        ("epsilon", "0.1"),
        ("epsilon", float("nan")),
        ("strength", 1.5),
        ("strength", True),
        ("norm", "l1"),
        ("norm", None),
        ("rounded", 1),
    ],
)
def test_a_malformed_set_is_named(files: Files, key: str, bad: Any) -> None:
    raw = index()
    raw["sets"][1][key] = bad
    error = refused(raw, files)
    assert error.where.startswith("sets.json: sets[1]")


def test_an_index_of_before_norms_is_of_linf_and_a_tiny_rounded_ball_is_refused(files: Files) -> None:
    raw = index()
    for row in raw["sets"]:
        del row["norm"], row["rounded"]
    assert {(info.norm, info.rounded) for info in read_sets(raw, files.__getitem__, "").infos} == {("linf", False)}
    raw["sets"][1] |= {"norm": "l2", "epsilon": 3.5}
    assert read_sets(raw, files.__getitem__, "").infos[1].norm == "l2"
    for bad in ({"epsilon": float("inf")}, {"epsilon": 0.003, "rounded": True}):
        changed = copy.deepcopy(raw)
        changed["sets"][1] |= bad
        assert refused(changed, files).where == "sets.json: sets[1]: epsilon"


@pytest.mark.parametrize("change", [{"extra": 1}, {"method": ...}])
def test_a_set_of_other_keys_is_named(files: Files, change: dict[str, Any]) -> None:
    raw = index()
    raw["sets"][2] = {key: value for key, value in (raw["sets"][2] | change).items() if value is not ...}
    assert refused(raw, files).where == "sets.json: sets[2]"


def test_clean_is_of_the_clean_kind(files: Files) -> None:
    raw = index()
    raw["sets"][0] |= {"kind": "adversarial", "epsilon": 0.1}
    assert refused(raw, files).where == "sets.json: sets[0]: kind"


def _read(index: Any, files: Files) -> EvaluationSets | BundleError:
    try:
        return read_sets(index, files.__getitem__, "sets.json")
    except BundleError as error:
        return error
