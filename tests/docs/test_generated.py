"""Schemas and reference are what the code says; what ships fits the schemas; a bad key does not."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest

from devices.errors import RecipeError
from devices.files import read_toml
from devices.profile_read import parse_profile
from pipeline.cli import main
from pipeline.recipe import read_recipe
from pipeline.schema.profile import profile_schema
from pipeline.schema.recipe import recipe_schema
from tests.docs.blocks import ROOT

_RECIPES = tuple(sorted((ROOT / "recipes").glob("*.toml")))
_PROFILES = tuple(sorted((ROOT / "devices" / "profiles").glob("*.toml")))


def _generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _faults(schema: dict[str, Any], content: Any) -> list[str]:
    return [error.json_path for error in jsonschema.Draft202012Validator(schema).iter_errors(content)]


def _profile(name: str) -> dict[str, Any]:
    return read_toml(ROOT / "devices" / "profiles" / name, RecipeError)


def test_generated_files_are_current() -> None:
    assert _generate().stale() == [], "make reference"


def test_a_stale_page_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = _generate()
    for name, text in module.pages().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(module, "DOCS", tmp_path)
    assert module.stale() == []
    (tmp_path / "reference" / "recipe.md").write_text("old")
    assert module.stale() == ["reference/recipe.md"]


def test_schemas_are_schemas() -> None:
    for schema in (recipe_schema(), profile_schema()):
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("path", _RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_fits(path: Path) -> None:
    assert _faults(recipe_schema(), read_toml(path, RecipeError)) == []


@pytest.mark.parametrize("path", _PROFILES, ids=lambda path: path.stem)
def test_a_shipped_profile_fits(path: Path) -> None:
    assert _faults(profile_schema(), read_toml(path, RecipeError)) == []


@pytest.mark.parametrize(
    ("section", "key", "value", "where"),
    [
        ("prune", "target_mac", 0.5, "$.prune"),
        ("prune", "target_macs", 2, "$.prune.target_macs"),
        ("robustness", "attacks", ["pdg"], "$.robustness.attacks[0]"),
        ("robustness", "corruptions", "al", "$.robustness.corruptions"),
        ("measure", "tune", "yes", "$.measure.tune"),
        ("gate", "max_size_bytes", 1.5, "$.gate.max_size_bytes"),
    ],
)
def test_what_a_recipe_refuses_its_schema_refuses(
    section: str, key: str, value: object, where: str, tmp_path: Path
) -> None:
    recipe = read_toml(ROOT / "recipes" / "digits.toml", RecipeError)
    recipe.setdefault(section, {})[key] = value
    assert where in _faults(recipe_schema(), recipe)
    with pytest.raises(RecipeError, match=key):
        read_recipe(ROOT / "recipes" / "digits.toml", [f"{section}.{key}={json.dumps(value)}"])


@pytest.mark.parametrize(
    ("section", "key", "value", "where"),
    [
        ("hardware", "memory_mb", 8, "$.hardware"),
        ("hardware", "memory_gb", 8000, "$.hardware.memory_gb"),
        ("engine", "precisions", ["fp23"], "$.engine.precisions[0]"),
        ("engine", "precisions", ["fp32", "fp32"], "$.engine.precisions"),
        ("hardware", "compute_capability", "8,9", "$.hardware.compute_capability"),
        ("pruning", "channel_step", 0, "$.pruning.channel_step"),
    ],
)
def test_what_a_profile_refuses_its_schema_refuses(
    section: str, key: str, value: object, where: str, tmp_path: Path
) -> None:
    profile = _profile("rtx-4090.toml")
    profile[section][key] = value
    assert where in _faults(profile_schema(), profile)
    path = tmp_path / "mine.toml"
    lines = (ROOT / "devices" / "profiles" / "rtx-4090.toml").read_text().splitlines()
    at = lines.index(f"[{section}]") + 1
    kept = [line for line in lines if not line.startswith(f"{key} =")]
    kept.insert(at, f"{key} = {json.dumps(value)}")
    path.write_text("\n".join(kept))
    assert parse_profile(path)[1]


def test_only_a_profile_of_its_own_needs_everything() -> None:
    alone = {"name": "mine", "title": "Mine"}
    assert _faults(profile_schema(), alone)
    assert _faults(profile_schema(), alone | {"based_on": "rtx-4090"}) == []
    whole = _profile("rtx-4090.toml")
    del whole["engine"]["max_opset"]
    assert _faults(profile_schema(), whole) == ["$.engine"]


def test_the_command_writes_the_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.schema.json"
    assert main(["schema", "recipe", "--out", str(path)]) == 0
    assert json.loads(path.read_text()) == recipe_schema()
    assert "#:schema ./recipe.schema.json" in capsys.readouterr().out
    assert main(["schema", "profile"]) == 0
    assert json.loads(capsys.readouterr().out) == profile_schema()
    assert main(["schema", "profile", "--out", str(path / "below")]) == 9
