"""How an optional part is installed."""

from __future__ import annotations


def install(extra: str) -> str:
    """What to do where a library of this extra is missing. By its name alone, an index has another project."""
    return f"In the folder of Espalier's source: pip install '.[{extra}]'"
