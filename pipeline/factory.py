"""Factories that a recipe names: `package.module:callable` or `path/to/file.py:callable`."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from devices.errors import EspalierError, RecipeError
from devices.files import digest_bytes, digest_value

_OURS = ("pipeline", "exporters", "devices")
_ROOT = Path(__file__).resolve().parent.parent


def load_factory(reference: str, field: str) -> Callable[..., Any]:
    """The callable that `reference` names. Raises `RecipeError` naming `field` when there is none."""
    source, name = _split(reference, field)
    try:
        module = _import_file(Path(source)) if source.endswith(".py") else _import_module(source)
    except ModuleNotFoundError as cause:
        raise RecipeError(field, f"'{source}' cannot be imported: {cause}", _advice(source, cause)) from cause
    # A user's module may raise anything while it is imported.
    except Exception as cause:
        raise RecipeError(field, f"importing '{source}' raised {type(cause).__name__}: {cause}", "Mend it") from cause
    found = getattr(module, name, None)
    if not callable(found):
        raise RecipeError(field, f"'{source}' has no callable '{name}'", _advice(source, None) or "Check the name")
    return found  # type: ignore[no-any-return]


def call_factory(factory: Callable[..., Any], arguments: dict[str, Any], field: str, error: type[EspalierError]) -> Any:
    """Call a factory of the user; what it raises becomes `error`, naming the recipe's field."""
    try:
        return factory(**arguments)
    except EspalierError:
        raise
    # A user's factory may raise anything.
    except Exception as cause:
        raise error(field, f"the factory raised {type(cause).__name__}: {cause}", "Mend it or its args") from cause


def factory_digest(reference: str, field: str) -> str:
    """Digest of the factory's source and of all it imports from beside it; nothing is imported."""
    source, name = _split(reference, field)
    path = Path(source) if source.endswith(".py") else _find_module(source)
    if path is None:
        # Not ours and not beside the recipe: a built-in or compiled module, known by its name alone.
        return digest_value([reference])
    if not path.is_file():
        raise RecipeError(field, f"there is no file {path}", "Paths are relative to the recipe's folder")
    return digest_value([name, code_digest([path])])


def code_digest(paths: list[Path]) -> str:
    """Digest of these source files and of every file of the same tree that they import, directly or not."""
    queue = list(paths)
    seen: dict[Path, str] = {}
    while queue:
        path = queue.pop()
        if path in seen:
            continue
        seen[path], imported = _source(path)
        queue += imported
    # Digests alone, sorted: the same code in another folder is the same code.
    return digest_value(sorted(seen.values()))


@cache
def _source(path: Path) -> tuple[str, tuple[Path, ...]]:
    """Digest of a source file, and the files of its tree that it imports."""
    content = path.read_bytes()
    imported = tuple(_local_imports(path, content)) if path.suffix == ".py" else ()
    return digest_bytes(content), imported


def our_module(name: str) -> Path:
    """Source file of one of Espalier's own modules, such as `pipeline.finetune`."""
    path = _ROOT.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _split(reference: str, field: str) -> tuple[str, str]:
    source, separator, name = reference.rpartition(":")
    if not separator or not source or not name.isidentifier():
        raise RecipeError(
            field, f"'{reference}' is not a factory", "Write package.module:callable or path/to/file.py:callable"
        )
    return source, name


def _import_module(name: str) -> Any:
    # The current folder last: Espalier's own packages and installed ones win.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    return importlib.import_module(name)


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise ModuleNotFoundError(f"there is no file {path}")
    unique = f"espalier_user_{digest_bytes(str(path).encode())[:12]}"
    if unique in sys.modules:
        return sys.modules[unique]
    spec = importlib.util.spec_from_file_location(unique, path)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # As for a script: its neighbours can be imported.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[unique] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[unique]
        raise
    return module


def _advice(source: str, cause: ModuleNotFoundError | None) -> str:
    top = source.split(".")[0]
    if top in _OURS and not source.endswith(".py"):
        theirs = Path.cwd() / top
        if (theirs.is_dir() or theirs.with_suffix(".py").is_file()) and theirs.resolve() != _ROOT / top:
            return (
                f"'{top}' is Espalier's own package, and it hides yours at {theirs}. Name the file instead: "
                f"{'/'.join(source.split('.'))}.py:callable"
            )
        return f"'{top}' is Espalier's own package"
    if cause is not None and cause.name and cause.name != top:
        return f"Install '{cause.name}' in this environment"
    return "Run from the folder that holds it, or name the file: path/to/file.py:callable"


def _find_module(name: str) -> Path | None:
    if name.split(".")[0] in _OURS:
        path = our_module(name)
        return path if path.is_file() else None
    relative = Path(*name.split("."))
    for base in [Path.cwd(), *map(Path, sys.path)]:
        for candidate in (base / relative / "__init__.py", (base / relative).with_suffix(".py")):
            if candidate.is_file():
                return candidate
    return None


def _local_imports(path: Path, content: bytes) -> Iterator[Path]:
    """Files of the same tree that a source file imports, inside functions too."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return
    ours = path.is_relative_to(_ROOT) and path.relative_to(_ROOT).parts[0] in _OURS
    for node in ast.walk(tree):
        base = _ROOT if ours else path.parent
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.ImportFrom):
            prefix = [node.module] if node.module else []
            names = [".".join([*prefix, alias.name]) for alias in node.names] + prefix
            base = path.parents[node.level - 1]
        else:
            continue
        for name in names:
            target = base.joinpath(*name.split("."))
            for candidate in (target.with_suffix(".py"), target / "__init__.py"):
                if candidate.is_file() and (not ours or name.split(".")[0] in _OURS):
                    yield candidate.resolve()
