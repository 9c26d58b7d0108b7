"""Replay: what counts, what is clipped again, and which files are refused."""

from __future__ import annotations

import copy
import io
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from devices.clipping import Norm, clip_l2, clip_linf, clip_to_ball
from devices.engines.base import EngineInfo
from devices.engines.onnxruntime import OnnxRuntimeEngine
from devices.errors import BundleError, DataError
from devices.robustness import (
    FORMAT,
    EvaluationSets,
    SetInfo,
    accuracy,
    difference,
    predict,
    read_sets,
    replay,
    require_fit,
    sets_index,
)
from devices.statistics import paired_difference, wilson
from tests.devices.parts import SAMPLES, Array, build_sets, rows_image, write_sets

Files = dict[str, bytes]


def test_each_set_is_scored_and_the_worst_case_counts_by_sample(
    engine: OnnxRuntimeEngine, sets: EvaluationSets
) -> None:
    found = replay(engine.run, sets)
    wrong = {name: np.flatnonzero(~right).tolist() for name, right in found.scores.items()}
    assert wrong == {
        "clean": [29],
        "fgsm_dense": list(range(10)),
        "pgd_dense": list(range(8, 16)),
        "invert_1": list(range(SAMPLES)),
    }
    assert np.flatnonzero(~found.worst_case).tolist() == [*range(16), 29]
    assert found.has_attacks


def test_without_attacks_the_worst_case_is_the_clean_one_and_says_so(
    engine: OnnxRuntimeEngine, sets: EvaluationSets
) -> None:
    kept = tuple(info for info in sets.infos if info.kind != "adversarial")
    found = replay(engine.run, replace(sets, infos=kept))
    assert not found.has_attacks
    np.testing.assert_array_equal(found.worst_case, found.scores["clean"])


def test_an_attack_that_went_beyond_its_epsilon_is_clipped_before_it_counts(
    engine: OnnxRuntimeEngine, sets: EvaluationSets
) -> None:
    # The images need a change of 0.25 to mislead.
    honest = tuple(replace(info, epsilon=0.26) if info.kind == "adversarial" else info for info in sets.infos)
    small = tuple(replace(info, epsilon=0.1) if info.kind == "adversarial" else info for info in sets.infos)
    assert int(replay(engine.run, replace(sets, infos=honest)).scores["fgsm_dense"].sum()) == 20
    # What is left is the clean image's answer.
    assert np.flatnonzero(~replay(engine.run, replace(sets, infos=small)).scores["fgsm_dense"]).tolist() == [29]


def test_a_pixel_that_is_no_number_becomes_the_clean_one(engine: OnnxRuntimeEngine, sets: EvaluationSets) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        images = dict(sets.images, fgsm_dense=np.full_like(sets.images["clean"], bad))
        found = replay(engine.run, replace(sets, images=images))
        np.testing.assert_array_equal(found.scores["fgsm_dense"], found.scores["clean"])


@given(st.integers(0, 2**31), st.floats(0.001, 1.0))
def test_clipping_keeps_to_epsilon_and_to_0_and_1(seed: int, epsilon: float) -> None:
    rng = np.random.default_rng(seed)
    clean = rng.random((2, 1, 3, 3), dtype=np.float32)
    wild = rng.normal(0, 2, clean.shape).astype(np.float32)
    wild[0, 0, 0, 0] = np.nan
    near = clip_linf(wild, clean, epsilon)
    assert near.dtype == np.float32
    assert near.min() >= 0
    assert near.max() <= 1
    assert np.abs(near.astype(np.float64) - clean).max() <= epsilon + 1e-6
    assert near[0, 0, 0, 0] == clean[0, 0, 0, 0]
    np.testing.assert_array_equal(clip_linf(near, clean, epsilon), near)
    inside = np.clip(clean + np.float32(0.5) * (near - clean), 0, 1)
    np.testing.assert_array_equal(clip_linf(inside, clean, epsilon), inside)


@given(st.integers(0, 2**31), st.floats(0.001, 5.0))
def test_a_change_is_shortened_to_epsilon_and_not_turned(seed: int, epsilon: float) -> None:
    rng = np.random.default_rng(seed)
    clean = rng.random((2, 1, 3, 3), dtype=np.float32)
    wild = rng.normal(0.5, 1, clean.shape).astype(np.float32)
    wild[1, 0, 1, 1] = np.nan
    near = clip_l2(wild, clean, epsilon)
    change = (near.astype(np.float64) - clean).reshape(2, -1)
    lengths = np.linalg.norm(change, axis=1)
    assert near.dtype == np.float32
    assert near.min() >= 0
    assert near.max() <= 1
    assert lengths.max() <= epsilon + 1e-6
    assert near[1, 0, 1, 1] == clean[1, 0, 1, 1]
    # It points where the change to the clipped image points.
    wanted = (np.clip(np.where(np.isnan(wild), clean, wild), 0, 1) - clean).reshape(2, -1)
    cosines = (change * wanted).sum(axis=1) / np.maximum(lengths * np.linalg.norm(wanted, axis=1), 1e-12)
    np.testing.assert_allclose(cosines, 1, atol=1e-4)
    np.testing.assert_allclose(clip_l2(near, clean, epsilon), near, atol=1e-6)


@given(st.integers(0, 2**31), st.floats(1 / 255, 1.0), st.sampled_from(["linf", "l2"]))
def test_rounded_images_are_bytes_within_epsilon_of_the_clean_bytes(seed: int, epsilon: float, norm: Norm) -> None:
    rng = np.random.default_rng(seed)
    clean = rng.random((3, 1, 4, 4), dtype=np.float32)
    wild = rng.normal(0.5, 1, clean.shape).astype(np.float32)
    near = clip_to_ball(wild, clean, epsilon, norm, rounded=True)
    levels = near.astype(np.float64) * 255
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
    change = (np.round(levels) - np.round(clean * 255)).reshape(3, -1) / 255
    size = np.abs(change).max() if norm == "linf" else np.linalg.norm(change, axis=1).max()
    assert size <= epsilon + 1e-4
    # In L2 the change is shared by 16 pixels: below 4 levels none of them may get a whole one.
    assert np.abs(change).max() > 0 or (norm == "l2" and epsilon < 5 / 255)
    np.testing.assert_array_equal(clip_to_ball(near, clean, epsilon, norm, rounded=True), near)


def test_eight_of_255_levels_are_eight_levels() -> None:
    clean = np.full((1, 1, 1, 2), 100 / 255, np.float32)
    wild = np.array([[[[1, 0]]]], np.float32)
    found = clip_to_ball(wild, clean, 8 / 255, rounded=True)
    np.testing.assert_array_equal(np.round(found * 255).ravel(), [108, 92])


def test_an_answer_that_is_not_finite_is_no_class() -> None:
    logits = np.array([[1, 2, 3], [np.nan, 0, 0], [0, np.inf, 0], [3, 2, 1]], dtype=np.float32)
    assert predict(lambda images: logits[: len(images)], np.zeros((4, 1, 1, 1), np.float32)).tolist() == [2, -1, -1, 0]


def test_all_images_are_answered_in_order_whatever_the_batch(engine: OnnxRuntimeEngine) -> None:
    labels = np.random.default_rng(0).integers(0, 3, 150)
    images = np.stack([rows_image(int(label), 0.2) for label in labels])
    np.testing.assert_array_equal(predict(engine.run, images), labels)


def test_accuracies_carry_the_right_intervals() -> None:
    before, after = np.arange(50) % 5 > 0, np.arange(50) % 7 > 0
    assert accuracy(before) == wilson(40, 50)
    assert difference(before, after) == paired_difference(before, after)


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


def test_sets_must_fit_the_engine(engine_info: EngineInfo, sets: EvaluationSets) -> None:
    require_fit(sets, engine_info)
    with pytest.raises(DataError, match=r"\(1, 6, 6\).*\(1, 6, 7\)"):
        require_fit(sets, replace(engine_info, input_shape=(1, 6, 7)))
    with pytest.raises(DataError, match=r"label 2.*2 classes"):
        require_fit(sets, replace(engine_info, classes=2))


def test_a_set_says_its_file() -> None:
    assert SetInfo(name="pgd_dense", kind="adversarial", method="pgd").file == "pgd_dense.npy"


def _read(index: Any, files: Files) -> EvaluationSets | BundleError:
    try:
        return read_sets(index, files.__getitem__, "sets.json")
    except BundleError as error:
        return error
