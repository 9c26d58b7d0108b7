"""`--full`: all that a recipe allows, and what it gives way to."""

from __future__ import annotations

from pathlib import Path

import pytest

from devices.errors import RecipeError
from pipeline.cli import main
from pipeline.recipe import read_recipe
from tests.pipeline.recipe_parts import GOOD, RECIPES, written


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_full_suite_is_all_that_a_recipe_allows(path: Path) -> None:
    plain, found = read_recipe(path), read_recipe(path, full=True)
    classifier = plain.task.kind == "classification"
    assert set(found.robustness.attacks) >= ({"autoattack", "pgd"} if classifier else {"apgd_ce", "square"})
    assert found.robustness.queries == (("square", "hopskipjump") if classifier else ())
    assert found.robustness.budget == "standard"
    assert len(found.robustness.corruptions) == 23
    assert found.robustness.epsilon == plain.robustness.epsilon
    assert len(found.threats.scan) == (5 if classifier else 0)
    assert len(found.threats.edge) == ((6 if plain.quantize.precision == "int8" else 4) if classifier else 0)
    assert found.threats.edge_budget.shadows == (8 if classifier and plain.train else 0)
    same = {"robustness": plain.robustness, "threats": plain.threats}
    assert found.model_copy(update=same) == plain


@pytest.mark.parametrize(("precision", "left"), [("fp16", "bit_errors"), ("bf16", "patch"), ("int8", "calibration")])
def test_the_full_suite_follows_the_precision_and_gives_way_to_what_is_set(
    tmp_path: Path, precision: str, left: str
) -> None:
    text = GOOD + f"[quantize]\nprecision = '{precision}'\n[robustness]\nattacks = []\nbudget = 'fast'\napgd_steps = 3"
    sets = ["robustness.fab_steps=7", "robustness.queries=['square']", "threats.edge_budget.steps=5"]
    found = read_recipe(written(tmp_path, text), sets, full=True)
    assert found.robustness.attacks == ("fgsm", "pgd", "autoattack")
    assert (found.robustness.budget, found.robustness.apgd_steps) == ("standard", None)
    assert (found.robustness.fab_steps, found.robustness.queries) == (7, ("square",))
    assert found.threats.edge_budget.steps == 5
    assert left in found.threats.edge
    assert ("differential" in found.threats.edge) == (precision == "int8")
    assert ("bit_errors" in found.threats.edge) == (precision != "bf16")


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(("epsilon", "rounded"), [(0.5 / 255, False), (1 / 255, True)])
def test_the_full_suite_rounds_what_bytes_can_hold(tmp_path: Path, norm: str, epsilon: float, rounded: bool) -> None:
    text = f"{GOOD}[robustness]\nnorm = '{norm}'\nepsilon = {epsilon}\nrounded = {str(rounded).lower()}"
    assert read_recipe(written(tmp_path, text), full=True).robustness.rounded == rounded


_FILES = {
    "model.onnx": 'onnx = "net.onnx"',
    "its factory": 'factory = "pipeline.onnx_network:from_onnx"\nargs.path = "net.onnx"\nweights = "net.safetensors"',
}


@pytest.mark.parametrize("model", _FILES.values(), ids=_FILES)
def test_an_onnx_file_has_no_references(tmp_path: Path, model: str) -> None:
    text = GOOD.replace('factory = "pipeline.zoo:mlp"', model).replace("[train]\nepochs = 1", "[threats]")
    assert read_recipe(written(tmp_path, text), full=True).threats.references == 0
    with pytest.raises(RecipeError, match=r"threats\.references trains networks from new weights, and an ONNX file"):
        read_recipe(written(tmp_path, text + "references = 3"))


def test_the_command_takes_the_full_suite(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It is what would run, but for what is set."""
    recipe, store = written(tmp_path, GOOD), ["--store", str(tmp_path / "store")]
    assert main(["stages", str(recipe), *store]) == 0
    assert "scan" not in capsys.readouterr().out
    assert main(["stages", str(recipe), "--full", "--set", "threats.edge=['patch']", *store]) == 0
    said = capsys.readouterr().out
    assert "scan dense int8" in said
    assert "threat patch" in said
    assert "threat membership" not in said
