"""Factories that a recipe names: `package.module:callable` or `path/to/file.py:callable`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from devices.errors import EspalierError, RecipeError
from devices.files import digest_bytes, digest_value
from pipeline.source_digest import (
    OURS,
    ROOT,
    STDLIB,
    code_digest,
    installed_version,
    is_installed,
    our_module,
    top_spec,
)


def load_factory(reference: str, field: str) -> Callable[..., Any]:
    """The callable that `reference` names. Raises `RecipeError` naming `field` when there is none."""
    source, name = _split(reference, field)
    try:
        module = _import_file(Path(source)) if source.endswith(".py") else _import_module(source)
    except ModuleNotFoundError as cause:
        raise RecipeError(field, f"'{source}' cannot be imported: {cause}", _advice(source, cause)) from cause
    # A user's module may raise anything while it is imported, or ask to exit, which would end the run as if it passed.
    except (Exception, SystemExit) as cause:
        said = f"importing '{source}' raised {said_of(cause)}"
        raise RecipeError(field, said, "Mend it") from cause
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
    except (Exception, SystemExit) as cause:
        raise error(field, f"the factory raised {said_of(cause)}", "Mend it or its args") from cause


def said_of(cause: BaseException) -> str:
    """What a user's code raised, and in which of its lines: the last that is neither ours nor a library's."""
    frames = traceback.extract_tb(cause.__traceback__)
    theirs = [frame for frame in frames if _is_theirs(Path(frame.filename))]
    place = f" ({theirs[-1].filename}, line {theirs[-1].lineno})" if theirs else ""
    return f"{type(cause).__name__}: {' '.join(str(cause).split()):.300}{place}"


def _is_theirs(path: Path) -> bool:
    others = (*(ROOT / package for package in OURS), STDLIB)
    return os.path.isfile(path) and not is_installed(path) and not any(path.is_relative_to(folder) for folder in others)


def factory_digest(reference: str, field: str) -> str:
    """Digest of the factory's source and of all it imports; of an installed library its version. Imports nothing."""
    source, name = _split(reference, field)
    path = Path(source) if source.endswith(".py") else _find_module(source)
    if path is None:
        # Not ours and not beside the recipe: a built-in or compiled module, known by its name alone.
        return digest_value([reference])
    if is_installed(path):
        return digest_value([reference, installed_version(source)])
    try:
        if not path.is_file():
            raise RecipeError(field, f"there is no file {path}", "Paths are relative to the recipe's folder")
        return digest_value([name, code_digest([path])])
    except OSError as cause:
        what = f"{cause.filename} cannot be read ({cause.strerror})"
        raise RecipeError(field, what, "Check the path and its permissions") from cause


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
    if top in OURS and not source.endswith(".py"):
        theirs = Path.cwd() / top
        if (theirs.is_dir() or theirs.with_suffix(".py").is_file()) and theirs.resolve() != ROOT / top:
            return (
                f"'{top}' is Espalier's own package, and it hides yours at {theirs}. Name the file instead: "
                f"{'/'.join(source.split('.'))}.py:callable"
            )
        return f"'{top}' is Espalier's own package"
    if cause is not None and cause.name and cause.name != top:
        return f"Install '{cause.name}' in this environment"
    return "Run from the folder that holds it, or name the file: path/to/file.py:callable"


def _find_module(name: str) -> Path | None:
    if name.split(".")[0] in OURS:
        path = our_module(name)
        return path if path.is_file() else None
    spec = top_spec(name, (*sys.path, str(Path.cwd())))
    if spec is None:
        return None
    relative = name.split(".")[1:]
    if not relative:
        return Path(spec.origin) if spec.origin and spec.has_location and os.path.isfile(spec.origin) else None
    for base in map(Path, spec.submodule_search_locations or ()):
        target = base.joinpath(*relative)
        for candidate in (target / "__init__.py", target.with_suffix(".py")):
            if os.path.isfile(candidate):
                return candidate
    return None
