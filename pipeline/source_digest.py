"""Digest of source code and of all the code beside it that it imports, by reading it; nothing is imported."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path

from devices.files import digest_bytes, digest_value

OURS = ("pipeline", "exporters", "devices")
ROOT = Path(__file__).resolve().parent.parent
STDLIB = Path(sysconfig.get_path("stdlib"))
# Where a statement holds others; a `match` holds its cases, and a `try` its handlers.
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
_INSTALLED = {"site-packages", "dist-packages"}


def code_digest(paths: list[Path]) -> str:
    """Digest of these source files and of every source file that they import, directly or not.

    Of installed libraries that a user's code imports, the version counts; of those installed editable, the source.
    """
    digests, names = _closure(paths)
    versions = _versions(frozenset(names)) if any(not _is_ours(path) for path in paths) else {}
    # Digests alone, sorted: the same code in another folder is the same code.
    return digest_value([sorted(digests), versions])


def installed_version(module: str) -> dict[str, str]:
    """Version by distribution of an installed module."""
    return _versions(frozenset({module.split(".")[0]}))


def is_installed(path: Path) -> bool:
    """Whether a file belongs to an installed library."""
    return bool(_INSTALLED & set(path.parts)) and not _is_ours(path)


def top_spec(name: str, search: tuple[str, ...]) -> ModuleSpec | None:
    """Where an import would find a module's topmost package. Asks the finders, those of editable installs too."""
    top = name.split(".")[0]
    found = (finder.find_spec(top, search) for finder in sys.meta_path)
    return next((spec for spec in found if spec is not None), None)


def our_module(name: str) -> Path:
    """Source file of one of Espalier's own modules, such as `pipeline.gate`."""
    path = ROOT.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _closure(paths: list[Path]) -> tuple[list[str], set[str]]:
    """Digests of the files, and the top-level names of all that they import."""
    queue = [path.resolve() for path in paths]
    seen: dict[Path, str] = {}
    names: set[str] = set()
    while queue:
        path = queue.pop()
        if path not in seen:
            seen[path], imported, tops = _source(path, Path.cwd(), tuple(sys.path))
            queue += imported
            names |= tops
    return list(seen.values()), names


@cache
def _source(path: Path, cwd: Path, search: tuple[str, ...]) -> tuple[str, tuple[Path, ...], frozenset[str]]:
    """Digest of a source file, the source files that it imports, and the top-level names it imports."""
    content = path.read_bytes()
    imports = list(_imports(path, content)) if path.suffix == ".py" else []
    bases = {start: _bases(path, start, cwd) for start in {base for _, base in imports}}
    found = {file for name, base in imports for file in _files_of(name, bases[base])}
    if not _is_ours(path):
        found.update(file for name, base in imports if not base for file in _elsewhere(name, (*search, str(cwd))))
    return (
        digest_bytes(content),
        tuple(sorted({Path(file).resolve() for file in found})),
        frozenset(name.split(".")[0] for name, base in imports if not base),
    )


def _imports(path: Path, content: bytes) -> Iterator[tuple[str, Path | None]]:
    """Names that a file imports; with the folder that a relative import starts from."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = path.parents[node.level - 1] if 0 < node.level <= len(path.parents) else None
            if node.module:
                yield node.module, base
            prefix = f"{node.module}." if node.module else ""
            yield from ((prefix + alias.name, base) for alias in node.names)


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """All statements, those within others too. Expressions hold none, and are most of a tree."""
    queue: list[ast.AST] = [tree]
    while queue:
        node = queue.pop()
        yield node
        for field in _BLOCKS:
            queue += getattr(node, field, ())


def _bases(path: Path, relative: Path | None, cwd: Path) -> list[Path]:
    """Folders that an import of this file may start from."""
    if relative is not None:
        return [relative]
    if _is_ours(path):
        return [ROOT]
    bases = [path.parent, cwd]
    package = path.parent
    while (package / "__init__.py").is_file():
        package = package.parent
        bases.append(package)
    # Ours count from wherever the command is started.
    return [*(base for base in bases if not is_installed(base)), ROOT]


def _files_of(name: str, bases: list[Path]) -> Iterator[str]:
    """The file of a module and the `__init__.py` of every package on the way to it.

    As text: a run asks for some 27,000 of them, of most there is none, and a `Path` of each takes seconds.
    """
    parts = name.split(".")
    for base in bases:
        if base == ROOT and parts[0] not in OURS:
            continue
        target = str(base)
        for part in parts:
            target = os.path.join(target, part)
            for candidate in (f"{target}.py", os.path.join(target, "__init__.py")):
                if os.path.isfile(candidate):
                    yield candidate


def _elsewhere(name: str, search: tuple[str, ...]) -> Iterator[str]:
    """Files of a module that stands in another folder of the search path, or is installed editable."""
    top, _, below = name.partition(".")
    spec = None if top in OURS else top_spec(top, search)
    if spec is None:
        return
    if spec.origin and spec.has_location and os.path.isfile(spec.origin) and _is_source(Path(spec.origin)):
        yield spec.origin
    if below:
        yield from _files_of(
            below, [base for base in map(Path, spec.submodule_search_locations or ()) if _is_source(base)]
        )


def _is_source(path: Path) -> bool:
    return not is_installed(path) and not path.is_relative_to(STDLIB)


def _is_ours(path: Path) -> bool:
    return path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[:1] in [(name,) for name in OURS]


@cache
def _versions(modules: frozenset[str]) -> dict[str, str]:
    distributions = importlib.metadata.packages_distributions()
    names = {name for module in modules for name in distributions.get(module, [])}
    return {name: importlib.metadata.version(name) for name in sorted(names)}
