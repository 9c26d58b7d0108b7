"""TOML in the pages is what its reader takes: recipes, profiles, fleets, files of trust, or parts of them."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from devices.errors import EspalierError, RecipeError
from devices.files import read_toml
from devices.fleet import read_fleet
from devices.profile import read_profile
from devices.trust.store import read_trust
from exporters.keys import make_key
from pipeline.recipe import read_recipe
from pipeline.report.toml_text import toml_text
from pipeline.schema.profile import profile_schema
from tests.docs.blocks import PAGES, Block, blocks_of

_BLOCKS = [block for page in PAGES for block in blocks_of(page) if block.language == "toml"]
_LEAST = {
    "name": "part",
    "model": {"factory": "pipeline.zoo:mlp"},
    "data": {"factory": "pipeline.datasets.digits:digits"},
    "train": {"epochs": 1},
}
_NEEDED = {
    "finetune": {"prune": {"target_macs": 0.5}},
    "distill": {"prune": {"target_macs": 0.5}, "finetune": {"epochs": 1}},
    "search": {"prune": {"target_macs": 0.5}},
}
"""What a section cannot be without."""


def _whole(part: dict[str, Any]) -> dict[str, Any]:
    """A part of a recipe with the least that makes it one."""
    whole = _LEAST | {key: value for name in part for key, value in _NEEDED.get(name, {}).items()} | part
    if {"weights", "onnx"} & set(whole["model"]):
        whole.pop("train", None)
    elif "onnx" not in whole["model"]:
        whole["model"] = _LEAST["model"] | whole["model"]
    return whole


def _check_trust(path: Path) -> None:
    for name in ("release-2026", "release-2027", "root"):
        make_key(path.parent, name, None, date(2099, 1, 1))
    text = path.read_text().replace('"9f0c..."', f'"{"0" * 64}"')
    # A certificate of a root takes a long time to make; tests/devices/trust reads some.
    path.write_text(text[: text.find("[[certificates]]")] + text[text.find("[[revoked]]") :])
    read_trust(path)


@pytest.mark.parametrize("block", _BLOCKS, ids=lambda block: block.name)
def test_a_block_is_read(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "block.toml"
    path.write_text(block.text)
    raw = read_toml(path, RecipeError)
    if "boards" in raw:
        read_fleet(path)
    elif {"keys", "revoked"} & set(raw):
        _check_trust(path)
    elif {"name", "engine"} <= set(raw):
        read_profile(path)
    elif {"session", "engine"} & set(raw):
        schema = profile_schema()
        for name, section in raw.items():
            jsonschema.validate(section, {**schema["$defs"][name], "$defs": schema["$defs"]})
    else:
        whole = tmp_path / "whole.toml"
        whole.write_text(toml_text(_whole(raw)))
        read_recipe(whole)


def test_a_wrong_key_in_a_page_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "whole.toml"
    path.write_text(toml_text(_whole({"robustness": {"attaks": ["pgd"]}})))
    with pytest.raises(EspalierError, match="attacks"):
        read_recipe(path)
