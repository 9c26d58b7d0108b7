"""Mutants of a module: small changes to its syntax tree, one at a time."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.Pow: ast.Mult,
}


@dataclass(frozen=True)
class Mutant:
    """One change of one module."""

    path: str
    line: int
    what: str
    tree: ast.Module


def mutants_of(path: str) -> Iterator[Mutant]:
    """Every mutant of a module, in the order of its lines."""
    original = ast.parse((ROOT / path).read_text())
    skipped = set(_annotations(original))
    for index, node in enumerate(ast.walk(original)):
        if id(node) in skipped:
            continue
        for what, change in _changes(node):
            tree = copy.deepcopy(original)
            changed = next(found for number, found in enumerate(ast.walk(tree)) if number == index)
            change(changed)
            yield Mutant(path, getattr(node, "lineno", 0), what, ast.fix_missing_locations(tree))


def _annotations(tree: ast.Module) -> Iterator[int]:
    """Nodes that are types, of which nothing depends at run time."""
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            found = getattr(node, name, None)
            if found is not None:
                yield from (id(inner) for inner in ast.walk(found))
        if isinstance(node, ast.Assign) and isinstance(node.value, (ast.Subscript, ast.BinOp)):
            names = {inner.id for inner in ast.walk(node.value) if isinstance(inner, ast.Name)}
            if "Literal" in names or any(isinstance(inner, ast.BitOr) for inner in ast.walk(node.value)):
                yield from (id(inner) for inner in ast.walk(node.value))
        # Decorators of data classes too.
        for decorator in getattr(node, "decorator_list", []):
            yield from (id(inner) for inner in ast.walk(decorator))


def _changes(node: ast.AST) -> Iterator[tuple[str, Callable[[ast.AST], None]]]:
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            other = _COMPARED[type(operator)]
            yield f"{type(operator).__name__} -> {other.__name__}", _setter("ops", other(), place)
    if isinstance(node, ast.BoolOp):
        other_word = ast.Or if isinstance(node.op, ast.And) else ast.And
        yield f"{type(node.op).__name__} -> {other_word.__name__}", _setter("op", other_word())
    if isinstance(node, ast.BinOp) and type(node.op) in _COMPUTED and not _is_text(node):
        computed = _COMPUTED[type(node.op)]
        yield f"{type(node.op).__name__} -> {computed.__name__}", _setter("op", computed())
    if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        value = not node.value if isinstance(node.value, bool) else node.value + 1
        yield f"{node.value} -> {value}", _setter("value", value)
    for field in ("test", "operand"):
        if isinstance(node, (ast.If, ast.IfExp, ast.UnaryOp, ast.comprehension)) and hasattr(node, field):
            if isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.Not):
                continue
            yield f"{field} negated", _negate(field)
    for field in ("body", "orelse", "finalbody"):
        block = getattr(node, field, None)
        for place, statement in enumerate(block if isinstance(block, list) else []):
            # At the end of a function it says nothing.
            idle = isinstance(node, ast.FunctionDef) and statement is node.body[-1] and _is_none(statement)
            if _can_go(statement) and not idle:
                yield f"without `{ast.unparse(statement).splitlines()[0][:60]}`", _setter(field, ast.Pass(), place)


def _is_text(node: ast.BinOp) -> bool:
    return any(isinstance(side, (ast.JoinedStr, ast.List)) or _is_str(side) for side in (node.left, node.right))


def _is_str(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_none(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Return) and ast.unparse(statement) == "return None"


def _can_go(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):
        return not _is_str(statement.value)
    return isinstance(statement, (ast.Raise, ast.AugAssign, ast.Return, ast.Continue))


def _setter(field: str, value: object, place: int | None = None) -> Callable[[ast.AST], None]:
    def change(node: ast.AST) -> None:
        if place is None:
            setattr(node, field, value)
        else:
            getattr(node, field)[place] = value

    return change


def _negate(field: str) -> Callable[[ast.AST], None]:
    def change(node: ast.AST) -> None:
        setattr(node, field, ast.UnaryOp(op=ast.Not(), operand=getattr(node, field)))

    return change
