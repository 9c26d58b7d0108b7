"""Versions of the libraries that decide results, read without importing them."""

from __future__ import annotations

import importlib.metadata
import platform

LIBRARIES = (
    "espalier",
    "jinja2",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "onnxsim",
    "pillow",
    "safetensors",
    "scikit-learn",
    "scipy",
    "torch",
)


def library_versions(names: tuple[str, ...] = LIBRARIES) -> dict[str, str | None]:
    """Version by distribution, None where it is not installed; and Python's."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found
