"""Networks that a step trains by itself: in its own process, whatever [train] says of several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from devices.detect import detect_host
from devices.profile import load_profile
from devices.stage import no_progress
from pipeline.recipe import read_recipe
from pipeline.steps import edge, scan
from pipeline.work import StepInputs, Work
from tests.drill import DRILL
from tests.pipeline.threats.edge.parts import Fixed, of_torch

TRAIN = ("train.devices=2", "train.epochs=1", "train.batch_size=256", "train.accelerator=cpu")


def inputs(folder: Path, threats: str) -> StepInputs:
    recipe = read_recipe(DRILL, [*TRAIN, f"threats={{{threats}}}"])
    return StepInputs(Work(recipe, load_profile("cpu"), detect_host(), "espalier run"), {}, folder, no_progress)


def test_references_train_where_several_processes_train_the_network(tmp_path: Path) -> None:
    found: Any = scan.references(inputs(tmp_path, "scan=['sensitivity'], references=1, samples=8"))
    assert len(found["losses"]) == 1


def test_shadow_networks_train_where_several_processes_train_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = of_torch("dense-fp32", Fixed(torch.zeros(64, 10)))
    monkeypatch.setattr(edge, "subjects_of", lambda _: [subject])
    monkeypatch.setattr(edge, "origin_of", lambda _: "engine")
    found: Any = edge.membership(inputs(tmp_path, "edge=['membership'], edge_budget={shadows=4, samples=64}"))
    assert "4 networks" in found["budget"]
