"""Recipes: what a good one becomes, and what a bad one says."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.errors import RecipeError
from pipeline.recipe import read_recipe, recipe_of, section_of
from tests.pipeline.recipe_parts import GOOD, RECIPES, written


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_that_ships_is_valid(path: Path) -> None:
    assert read_recipe(path).name == path.stem


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ("[prune]\ntarget_mac = 0.5", "prune.target_mac", "Did you mean 'prune.target_macs'"),
        ("[purne]\ntarget_macs = 0.5", "purne", "Did you mean 'prune'"),
        ("[gate]\nspeed = 2", "gate.speed", "is not a key"),
        ("[prune]\ntarget_macs = 1.5", "prune.target_macs", "less than 1"),
        ("[prune]\ntarget_macs = 'half'", "prune.target_macs", "not 'half'"),
        ("[prune]\nscope = 'global'", "prune", "needs one target, not 0"),
        (
            "[prune]\ntarget_macs = 0.5\nkeep_ratio = 0.5",
            "prune",
            "not 2 (target_macs, keep_ratio); there are",
        ),
        ("[prune]\ntarget_sparsity = 0.5", "prune", "prune.target_sparsity is not a target of granularity 'channels'"),
        ("[prune]\ntarget_macs = 0.5\ncriterion = 'lamp'", "prune", "granularity 'weights', scope 'global'"),
        ("[prune]\ntarget_macs = 0.5\nsteps = 3", "prune", "1 for 'one_shot'"),
        ("[prune]\ntarget_macs = 0.5\nschedule = 'linear'", "prune", "above 1"),
        ("[prune]\ntarget_macs = 0.5\nscope = 'both'", "prune.scope", "'allocated' or 'sensitivity'"),
        ("[quantize]\nprecision = 'fp32'\nkeep = ['first']", "quantize", "keep is of int8 and fp8"),
        ("[prune]\ntarget_macs = 0.5\ntune_samples = 64", "prune", "prune.tune_samples is of granularities"),
        ("[prune]\ngranularity = 'blocks'\ntarget_macs = 0.5\n[search]", "", "[search] looks for widths of channels"),
        (
            "[prune]\ngranularity = 'weights'\ntarget_sparsity = 0.5\nscope = 'sensitivity'",
            "prune",
            "take 'global' or 'local'",
        ),
        (
            "[prune]\ntarget_macs = 0.5\ncriterion = 'learned'\nscope = 'sensitivity'",
            "prune",
            "needs widths that its scores do not change",
        ),
        (
            "[prune]\ngranularity = '2:4'\nschedule = 'linear'\nsteps = 2",
            "prune",
            "has no share to grow over steps",
        ),
        ("[prune]\ngranularity = '2:4'\ncriterion = 'l1'", "prune", "'2:4' goes by magnitude: leave it out"),
        (
            "[prune]\ngranularity = 'blocks'\ntarget_macs = 0.5\ncriterion = 'taylor'",
            "prune",
            "'blocks' goes by the loss: leave it out",
        ),
        (
            "[prune]\ngranularity = 'weights'\ntarget_sparsity = 0.5\ncriterion = 'fpgm'",
            "prune",
            "'fpgm' does not rank single weights: take 'l1', 'lamp'",
        ),
        ("[prune]\nkeep_ratio = 0.5\n[search]", "", "'nearest' needs a budget that trials are within"),
        (
            "[prune]\ntarget_latency_ms = 1.0\n[search]",
            "",
            "needs trials' latency_ms: add it to search.objectives",
        ),
        (
            "[prune]\ntarget_macs = 0.5\n[search]\nobjectives = ['accuracy', 'energy_mj']",
            "search.objectives.1",
            "'size_bytes' or 'latency_ms'",
        ),
        (
            "[prune]\ntarget_macs = 0.5\n[finetune]\nepochs = 1\n[distill]\n[task]\nkind = 'detection'\n"
            "[robustness]\nattacks = ['pgd']",
            "",
            "[distill] follows one tensor of logits",
        ),
        (
            "[prune]\ntarget_macs = 0.5\n[finetune]\nepochs = 1\n[distill]\n[task]\nkind = 'custom'\n"
            "loss = 'm:loss'\nscore = 'm:score'\noutputs = ['a', 'b']\n[robustness]\nattacks = ['pgd']",
            "",
            "[distill] follows one tensor of logits",
        ),
        ("[search]\ntrials = 32", "", "add [prune] with a target"),
        ("[distill]\nweight = 0.5", "", "add [finetune]"),
        ("[quantize]\nprecision = 'int4'", "quantize.precision", "'int8' or 'fp8'"),
        ("[robustness]\nepsilon = 8", "robustness", "epsilon is 8, and a pixel goes from 0 to 1: for 8 of 255 levels"),
        ("[robustness]\nepsilon = 1", "robustness", "epsilon is 1, and a pixel goes from 0 to 1: for 1 of 255 levels"),
        ("[robustness]\nepsilon = 8\nnorm = 'l1'", "robustness.norm", "'linf' or 'l2'"),
        ("[robustness]\nepsilon = 0.003", "robustness", "set robustness.rounded = false"),
        ("[robustness]\nattacks = ['autoattak']", "robustness.attacks.0", "'square' or 'autoattack'"),
        ("[robustness]\nattacks = ['autoattack', 'fab']", "robustness", "fab, which is a part of autoattack"),
        ("[robustness]\nsquare_queries = 0", "robustness.square_queries", "greater than or equal to 2"),
        ("[robustness]\nattacks = ['fab']\n[task]\nkind = 'segmentation'", "", "fab aims at classes, and the task is"),
        ("[robustness]\nepsilon = nan", "robustness.epsilon", "finite"),
        ("[finetune]\nepochs = 1", "", "add [prune]"),
        ("seed = 1.5", "train.seed", "is not a key"),
        ("[gate]\nmin_speedup_dense_int8 = 1\n[quantize]\nprecision = 'fp32'", "", "needs quantize.precision"),
    ],
)
def test_a_wrong_recipe_names_the_field(tmp_path: Path, change: str, field: str, says: str) -> None:
    path = written(tmp_path, f"{GOOD}{change}\n")
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    assert caught.value.where == (f"{path}: {field}" if field else str(path))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name = \nseed = 1", "line 1"),
        ('name = "a/b"', "name"),
        ("", "name"),
        (GOOD.replace("[train]\nepochs = 1", ""), "weights"),
        (GOOD.replace("[data]", "[data]\nargs = 3"), "data.args"),
        (GOOD.replace("epochs = 1", "epochs = true"), "train.epochs"),
        (GOOD.replace("epochs = 1", "epochs = 2030-01-01"), "neither"),
    ],
)
def test_a_broken_file_is_said(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        read_recipe(written(tmp_path, text))


@pytest.mark.parametrize(
    "prune",
    [
        "target_macs = 0.5",
        "granularity = '2:4'",
        "granularity = 'blocks'\ntarget_macs = 0.5",
        "granularity = 'blocks_and_channels'\ntarget_macs = 0.5\ncriterion = 'taylor'",
        "granularity = 'weights'\ntarget_sparsity = 0.5\ncriterion = 'hessian'",
        "target_latency_ms = 1.0\n[search]\nobjectives = ['accuracy', 'latency_ms']",
        "keep_ratio = 0.5\n[search]\nchoose = 'trial-3'",
        "target_size_bytes = 5000\n[search]",
    ],
)
def test_a_recipe_that_was_recorded_reads_back_as_itself(tmp_path: Path, prune: str) -> None:
    """A record has every key, those with defaults too."""
    recipe = read_recipe(written(tmp_path, f"{GOOD}[prune]\n{prune}\n"))
    recorded = {key: value for key, value in section_of(recipe).items() if value is not None}
    assert recipe_of(recorded, tmp_path / "evidence.json", tmp_path) == recipe


def test_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.toml: there is no such file"):
        read_recipe(tmp_path / "nowhere.toml")


def test_overrides_reach_every_kind_of_value(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    recipe = read_recipe(
        path,
        ["seed=7", "train.epochs=3", "name=other", "prune.target_macs=0.5", "prune.ignore=['0.*']", "data.args.fold=2"],
    )
    assert (recipe.seed, recipe.name, recipe.data.args) == (7, "other", {"fold": 2})
    assert recipe.train is not None
    assert recipe.train.epochs == 3
    assert recipe.prune is not None
    assert recipe.prune.ignore == ("0.*",)


@pytest.mark.parametrize("text", ["seed", "=3", "a..b=1", "name.x=1", "train.epoch=3"])
def test_a_wrong_override_is_said(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError):
        read_recipe(written(tmp_path, GOOD), [text])


def test_paths_belong_to_the_recipe_and_overrides_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the file relative to the file, on the command line relative to where the user stands."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    text = """
name = "x"
[model]
factory = "net.py:build"
weights = "w.safetensors"
[data]
factory = "pipeline.datasets.image_folder:image_folder"
args = { path = "images", color = "rgb" }
"""
    path = written(tmp_path / "recipes", text)
    recipe = read_recipe(path)
    assert recipe.model.factory == f"{tmp_path / 'recipes' / 'net.py'}:build"
    assert recipe.model.weights == str(tmp_path / "recipes" / "w.safetensors")
    assert recipe.data.args == {"path": str(tmp_path / "recipes" / "images"), "color": "rgb"}
    given = read_recipe(path, ["data.args.path=mine.tar", "model.weights=mine.safetensors"])
    assert given.data.args["path"] == str(tmp_path / "here" / "mine.tar")
    assert given.model.weights == str(tmp_path / "here" / "mine.safetensors")
    assert given.model.factory == recipe.model.factory


_KEYS = st.sampled_from(
    [
        "name",
        "seed",
        "threads",
        "model",
        "data",
        "train",
        "prune",
        "gate",
        "factory",
        "args",
        "epochs",
        "target_macs",
        "zz",
    ]
)
_VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**40), 2**40), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_KEYS, inner, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(_KEYS, _VALUES, max_size=6))
def test_no_recipe_ends_in_a_traceback(tmp_path_factory: pytest.TempPathFactory, content: dict[str, object]) -> None:
    """Whatever TOML says, the answer is a recipe or a RecipeError."""
    path = written(tmp_path_factory.mktemp("fuzz"), _toml(content))
    # Any other exception fails the test.
    with contextlib.suppress(RecipeError):
        read_recipe(path)


def _toml(content: dict[str, object]) -> str:
    return "\n".join(f"{key} = {_value(value)}" for key, value in content.items())


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(letter):08x}" for letter in value if not 0xD800 <= ord(letter) < 0xE000) + '"'
    return str(value)
