"""What a statement says of the run's sources: weights by the digest that anybody can compute."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from devices.detect import detect_host
from devices.errors import ModelError
from devices.files import digest_file, digest_value
from devices.profile import load_profile
from pipeline.attest.format import ATTESTATIONS, HOST_CLASS, content_digest, file_of
from pipeline.attest.statement import sources_of, write_statements
from pipeline.fingerprint import data_fingerprint, model_fingerprint
from pipeline.recipe import Recipe, read_recipe
from pipeline.store import Store
from pipeline.work import Origin, RunBoard, Work

RECIPE = """
name = "small"
[model]
factory = "pipeline.zoo:mlp"
weights = "net.safetensors"
[data]
factory = "pipeline.datasets.digits:digits_parity"
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    (tmp_path / "net.safetensors").write_bytes(b"weights")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return read_recipe(tmp_path / "recipe.toml")


def origin_of(recipe: Recipe, tmp_path: Path) -> Origin:
    config = {
        "model": model_fingerprint(recipe.model, tmp_path / "store"),
        "data": data_fingerprint(recipe.data, tmp_path / "store"),
    }
    return Origin(config=config, inputs={}, code="", libraries={})


def test_sources_are_network_images_and_weights(recipe: Recipe, tmp_path: Path) -> None:
    origin = origin_of(recipe, tmp_path)
    rows = {row["name"]: row for row in sources_of(origin, recipe)}
    assert list(rows) == ["model", "data", "weights net.safetensors"]
    assert rows["weights net.safetensors"]["digest"] == {"sha256": digest_file(tmp_path / "net.safetensors")}
    assert rows["model"]["digest"] == {"espalier-value-v1": digest_value(origin.config["model"])}
    assert rows["data"]["annotations"] == {"factory": "pipeline.datasets.digits:digits_parity"}
    assert origin.config["model"]["weights"] == content_digest(digest_file(tmp_path / "net.safetensors"))


def test_weights_may_be_a_networks_folder(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "cleaned").mkdir()
    for name in ("weights.safetensors", "plan.json"):
        (tmp_path / "cleaned" / name).write_text(name)
    own = recipe.model_copy(update={"model": recipe.model.model_copy(update={"weights": str(tmp_path / "cleaned")})})
    origin = origin_of(own, tmp_path)
    rows = {row["name"]: row["digest"] for row in sources_of(origin, own)}
    assert rows["weights cleaned"] == {"espalier-folder-v1": origin.config["model"]["weights"]}
    (tmp_path / "cleaned" / "plan.json").write_text("another")
    with pytest.raises(ModelError, match="changed while the recipe ran"):
        list(sources_of(origin, own))


def test_weights_that_change_while_the_recipe_runs_are_noticed(recipe: Recipe, tmp_path: Path) -> None:
    origin = origin_of(recipe, tmp_path)
    (tmp_path / "net.safetensors").write_bytes(b"other weights")
    with pytest.raises(ModelError, match="changed while the recipe ran"):
        list(sources_of(origin, recipe))


def test_a_step_without_network_and_images_has_no_sources(recipe: Recipe) -> None:
    assert list(sources_of(Origin(config={"seed": 0}, inputs={}, code="", libraries={}), recipe)) == []


def test_a_stored_result_is_its_makers(recipe: Recipe, tmp_path: Path) -> None:
    """Whoever uses it and writes the statement."""
    result = Store(tmp_path / "store").make("train", "key", "the maker's class", lambda folder: {}, lambda: None)
    work = SimpleNamespace(recipe=recipe, profile=SimpleNamespace(name="cpu"))
    origins = {"dense": Origin(config={}, inputs={}, code="", libraries={})}
    inputs = SimpleNamespace(work=work, results={"dense": result}, origins=origins, folder=tmp_path)
    write_statements(inputs)  # type: ignore[arg-type]
    details = json.loads((tmp_path / ATTESTATIONS / "dense.json").read_text())["predicate"]["runDetails"]
    assert details["builder"]["id"] == f"{HOST_CLASS}the maker's class"


@pytest.mark.parametrize("on_board", [False, True])
def test_what_needs_the_device_is_made_on_the_board(recipe: Recipe, on_board: bool) -> None:
    here = detect_host()
    there = replace(here, machine="riscv64")
    board = RunBoard(name="kitchen", host=there, fingerprint="x", notes=(), run_stage=None) if on_board else None  # type: ignore[arg-type]
    work = Work(recipe, load_profile("cpu"), here, "", board)
    engines = (there if on_board else here).engine_class
    assert work.made_on("build", {"host_class": "x"}) == engines
    assert work.made_on("measure", {"host": "x"}) == engines
    assert work.made_on("train", {"seed": 0}) == here.engine_class
    assert work.made_on("bundle", {"host": "x"}) == here.engine_class


@pytest.mark.parametrize(("node", "file"), [("dense", "dense.json"), ("pruned 1/2", "pruned-1-of-2.json")])
def test_every_step_has_a_file(node: str, file: str) -> None:
    assert file_of(node) == file


def test_judging_and_explaining_need_the_base_install_alone() -> None:
    """What verifies a release needs neither torch nor the libraries of the host's part."""
    code = (
        "import sys, pipeline.attest.explain, pipeline.release.places, pipeline.release.gate, pipeline.release.junit;"
        "print([name for name in ('torch', 'onnx', 'pydantic', 'sklearn', 'onnxruntime') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
