"""What the source says of a class and of each of its fields."""

from __future__ import annotations

import ast
import inspect
import textwrap


def class_text(kind: type) -> str:
    """Docstring of a class on one line; empty where it has none."""
    return " ".join((inspect.cleandoc(kind.__doc__) if kind.__doc__ else "").split())


def field_texts(kind: type) -> dict[str, str]:
    """The text below each annotated field of a class, by the field's name, on one line. Its own fields alone."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    texts = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
            texts[field.target.id] = " ".join(below.value.value.split())
    return texts
