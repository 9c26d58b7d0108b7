"""The attack stage, on real engines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devices.attack import REPLAY_FILE, attack_engines
from devices.detect import Host
from devices.errors import DataError, DeviceError
from devices.robustness import EvaluationSets
from devices.stage import no_progress
from devices.statistics import paired_difference, wilson
from tests.devices.parts import SAMPLES, build_engine, build_onnx, rows_kernel


@pytest.fixture
def engines(tmp_path: Path, engine_folder: Path, host: Host) -> dict[str, Path]:
    """The network, and one that takes every image for the top class."""
    kernel = rows_kernel()
    kernel[1:] *= 0.01
    build_engine(tmp_path / "stubborn", build_onnx(tmp_path / "stubborn.onnx", kernel), host)
    return {"dense": engine_folder, "stubborn": tmp_path / "stubborn"}


def test_every_engine_meets_every_set(
    tmp_path: Path, engines: dict[str, Path], sets: EvaluationSets, host: Host
) -> None:
    told: list[tuple[int, int, str]] = []
    result = attack_engines(engines, "dense", sets, host, tmp_path / "out", lambda *row: told.append(row))
    metrics: Any = result.metrics
    shares = [done / total for done, total, _ in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    # Every batch of every set is told: no set is as large as a batch.
    assert [text for _, _, text in told].count("dense") >= len(sets.infos)
    assert metrics["samples"] == SAMPLES
    dense, stubborn = metrics["engines"]["dense"], metrics["engines"]["stubborn"]
    assert {row["name"]: round(row["value"] * SAMPLES) for row in dense["sets"]} == {
        "clean": 29,
        "fgsm_dense": 20,
        "pgd_dense": 22,
        "invert_1": 0,
    }
    assert dense["clean"] == wilson(29, SAMPLES).as_dict() | {"difference": dense["clean"]["difference"]}
    assert dense["robust"]["value"] == 13 / SAMPLES
    assert dense["clean"]["difference"]["value"] == 0
    # Labels are 0, 1, 2 in turn, and the last clean image is of the top class but labelled 2.
    assert stubborn["clean"]["value"] == 10 / SAMPLES
    same, top = np.arange(SAMPLES) < 29, np.arange(SAMPLES) % 3 == 0
    assert stubborn["clean"]["difference"] == paired_difference(same, top).as_dict()
    assert stubborn["sets"][1]["epsilon"] == 0.3


def test_the_file_holds_the_outcome_of_every_sample(
    tmp_path: Path, engines: dict[str, Path], sets: EvaluationSets, host: Host
) -> None:
    result = attack_engines(engines, "dense", sets, host, tmp_path / "out", no_progress)
    written = json.loads((result.artifact.folder / REPLAY_FILE).read_text())
    outcomes = written.pop("correct")
    assert written == result.metrics
    assert outcomes["dense"]["fgsm_dense"] == "0" * 10 + "1" * 20
    assert outcomes["dense"]["clean"] == "1" * 29 + "0"
    assert outcomes["stubborn"]["clean"] == "100" * 10


def test_without_attacks_no_robustness_is_claimed(
    tmp_path: Path, engines: dict[str, Path], sets: EvaluationSets, host: Host
) -> None:
    calm = replace(sets, infos=tuple(info for info in sets.infos if info.kind != "adversarial"))
    metrics: Any = attack_engines(engines, "dense", calm, host, tmp_path / "out", no_progress).metrics
    assert metrics["engines"]["dense"]["robust"] is None
    assert [row["name"] for row in metrics["engines"]["dense"]["sets"]] == ["clean", "invert_1"]


def test_sets_of_another_size_and_engines_for_elsewhere_are_refused(
    tmp_path: Path, engines: dict[str, Path], sets: EvaluationSets, host: Host, jetson: Host
) -> None:
    wide = replace(sets, images={name: np.repeat(array, 2, axis=3) for name, array in sets.images.items()})
    with pytest.raises(DataError, match=r"\(1, 6, 12\)"):
        attack_engines(engines, "dense", wide, host, tmp_path / "out", no_progress)
    with pytest.raises(DeviceError, match="aarch64-neon"):
        attack_engines(engines, "dense", sets, jetson, tmp_path / "out", no_progress)
    assert not (tmp_path / "out").exists()
