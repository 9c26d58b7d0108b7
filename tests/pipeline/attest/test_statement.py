"""What a statement says of the run's sources: weights by the digest that anybody can compute."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from devices.errors import ModelError
from devices.files import digest_file, digest_value
from pipeline.attest.format import content_digest, file_of
from pipeline.attest.statement import sources_of
from pipeline.fingerprint import data_fingerprint, model_fingerprint
from pipeline.recipe import Recipe, read_recipe
from pipeline.work import Origin

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


def test_weights_that_change_while_the_recipe_runs_are_noticed(recipe: Recipe, tmp_path: Path) -> None:
    origin = origin_of(recipe, tmp_path)
    (tmp_path / "net.safetensors").write_bytes(b"other weights")
    with pytest.raises(ModelError, match="changed while the recipe ran"):
        list(sources_of(origin, recipe))


def test_a_step_without_network_and_images_has_no_sources(recipe: Recipe) -> None:
    assert list(sources_of(Origin(config={"seed": 0}, inputs={}, code="", libraries={}), recipe)) == []


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
