"""A good recipe, the recipes that ship, and a recipe as a file."""

from __future__ import annotations

from pathlib import Path

RECIPES = Path(__file__).parent.parent.parent / "recipes"
GOOD = """
name = "x"
[model]
factory = "pipeline.zoo:mlp"
[data]
factory = "pipeline.datasets.digits:digits"
[train]
epochs = 1
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path
