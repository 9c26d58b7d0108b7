"""Other tasks than classification through the whole chain, as a user runs it: segmentation, and a detector."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import devices
from devices.bundle import open_bundle
from devices.errors import DataError, RecipeError
from devices.segmenter import RawNetwork, Segmenter
from devices.trust.store import UNSIGNED
from tests import drill

RECIPES = Path(__file__).parent.parent / "custom_recipe"
AGENT = "import sys; from devices.agent import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of both recipes."""
    return tmp_path_factory.mktemp("tasks") / "store"


def ran(store: Path, name: str, *more: str) -> tuple[Path, dict[str, Any]]:
    """The run's folder and its report."""
    out = store.parent / name
    done = drill.run(store, out, *more, recipe=RECIPES / f"{name}.toml")
    assert done.returncode == 0, done.stderr
    return out, json.loads((out / "report.json").read_text())


def agent(*arguments: object) -> tuple[int, str, str]:
    """Exit code, output and errors of the board's command."""
    command = [sys.executable, "-c", AGENT, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=drill.environment(), timeout=1800, check=False)
    return done.returncode, done.stdout, done.stderr


def test_segmentation_ends_in_a_bundle_that_maps_pixels(store: Path) -> None:
    out, report = ran(store, "segmentation")
    segment = devices.load(out / "deploy", allow_unsigned=True)
    assert isinstance(segment, Segmenter)
    found = segment(np.zeros((24, 40), dtype=np.uint8))
    assert found.classes.shape == (24, 40)
    assert found.labels == ("background", *"0123456789")
    assert (found.classes == 0).mean() > 0.9
    assert report["task"] == "segmentation"
    assert report["pruning"]["macs_after"] <= 0.6 * report["pruning"]["macs_before"]
    engine = next(engine for engine in report["engines"] if engine["name"] == "compressed-int8")
    assert 0.3 < engine["robust"]["value"] <= engine["clean"]["value"] < 1
    assert 0 < engine["mean_iou"]["low"] <= engine["mean_iou"]["value"] < engine["clean"]["value"]
    assert all(row["agreement"] > 0.9 for row in report["parity"])
    code, text, _ = agent("attack", out / "deploy", out / "evidence", "--allow-unsigned", "--json")
    assert code == 0
    again = json.loads(text)
    assert again["clean"]["value"] == engine["clean"]["value"]
    assert again["worst_case"]["value"] == engine["robust"]["value"]
    assert again["mean_iou"] == engine["mean_iou"]


def test_a_detector_comes_through_by_its_users_callables(store: Path) -> None:
    out, report = ran(store, "custom")
    network = devices.load(out / "deploy", allow_unsigned=True)
    assert isinstance(network, RawNetwork)
    frame = np.zeros((16, 16), dtype=np.float32)
    frame[4:12, 4:12] = 0.9
    logits, boxes = network(frame)
    assert (logits.shape, boxes.shape) == ((1, 1), (1, 4))
    assert logits[0, 0] > 0
    np.testing.assert_allclose(boxes[0], [0.5, 0.5, 0.5, 0.5], atol=0.2)
    shipped = next(engine for engine in report["engines"] if engine["name"] == "compressed-int8")
    assert shipped["clean"]["value"] > shipped["robust"]["value"] > 0.3
    assert report["task"] == "custom"
    borders = [row["agreement"] for row in report["parity"]]
    assert min(borders) > 0.9
    evidence = open_bundle(out / "evidence", "evidence", UNSIGNED)
    assert evidence.manifest["task"]["kind"] == "custom"
    assert str(RECIPES) not in json.dumps(evidence.manifest)
    code, _, said = agent("attack", out / "deploy", out / "evidence", "--allow-unsigned")
    assert code == DataError.exit_code
    assert "score is code that does not travel in a bundle" in said


def test_a_rerun_makes_nothing_and_a_missing_callable_is_named(store: Path, tmp_path: Path) -> None:
    ran(store, "custom")
    again = drill.run(store, store.parent / "custom", recipe=RECIPES / "custom.toml")
    assert all(line.endswith("stored") for line in again.stderr.splitlines() if line.startswith("["))
    bad = drill.run(store, tmp_path / "bad", "--set", "task.score=detector.py:no", recipe=RECIPES / "custom.toml")
    assert bad.returncode == RecipeError.exit_code
    assert "task.score" in bad.stderr
    assert "Traceback" not in bad.stderr
