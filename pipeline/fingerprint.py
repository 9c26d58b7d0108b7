"""Digests of what a recipe names outside itself: model code and weights, data code and files. Imports nothing of it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from devices.errors import DataError, EspalierError, ModelError, StorageError
from devices.files import digest_file, digest_value, read_json, write_json
from pipeline.factory import factory_digest
from pipeline.recipe import DataConfig, ModelConfig
from pipeline.recipe.paths import is_path_argument
from pipeline.recipe.sections import ONNX_FACTORY

_CACHE_NAME = "file-digests.json"
_RUN_MARK = ".espalier"


def model_fingerprint(config: ModelConfig, store_root: Path) -> dict[str, object]:
    """All of the model section that decides the network. Raises `ModelError` when the weights are missing."""
    weights = None
    if config.weights is not None:
        path = Path(config.weights)
        if not _is_there(path, "model.weights", ModelError):
            raise ModelError("model.weights", f"there is no file {path}", "Paths are relative to the recipe's folder")
        weights = _content(path, store_root, ModelError)
    arguments = _arguments(config.args, "model", store_root, ModelError)
    onnx = config.onnx or (config.args.get("path") if config.factory == ONNX_FACTORY else None)
    beside = _beside_onnx(Path(onnx), store_root) if isinstance(onnx, str) else {}
    return beside | {
        "factory": factory_digest(config.factory, "model.factory"),
        "args": arguments,
        "weights": weights,
        "mean": config.mean,
        "std": config.std,
    }


def data_fingerprint(config: DataConfig, store_root: Path) -> dict[str, object]:
    """All of the data section that decides the images. Raises `DataError` when a path is missing."""
    return {
        "factory": factory_digest(config.factory, "data.factory"),
        "args": _arguments(config.args, "data", store_root, DataError),
    }


def _beside_onnx(path: Path, store_root: Path) -> dict[str, object]:
    """Digests of the files that an ONNX file keeps its weights in."""
    if not os.path.isfile(path):
        return {}
    from exporters.onnx_read import external_files

    return {"external": [_content(file, store_root, ModelError) for file in external_files(path)]}


def _arguments(
    arguments: dict[str, object], section: str, store_root: Path, error: type[EspalierError]
) -> dict[str, object]:
    """Arguments of a factory; files and folders count by content."""
    result = dict(arguments)
    for name, value in arguments.items():
        if is_path_argument(name) and isinstance(value, str):
            if not _is_there(Path(value), f"{section}.args.{name}", error):
                raise error(f"{section}.args.{name}", f"there is no {value}", "Give it with --set, or mend the recipe")
            result[name] = _content(Path(value), store_root, error)
    return result


def _is_there(path: Path, field: str, error: type[EspalierError]) -> bool:
    # Of a folder that may not be entered and of a name that is too long, the system does not say no but fails.
    try:
        return path.exists()
    except OSError as cause:
        raise error(field, f"{path} cannot be read ({cause.strerror})", "Check the path and its permissions") from cause


def _content(path: Path, store_root: Path, error: type[EspalierError]) -> str:
    """Digest of a file, or of a folder's files by name; remembered while nothing about them changes."""
    try:
        files = [path] if path.is_file() else files_below(path, store_root.resolve())
        signature = digest_value([str(path.resolve()), [(str(file), *_stat(file)) for file in files]])
        cache_path = store_root / _CACHE_NAME
        cache = _read_cache(cache_path)
        if signature not in cache:
            cache[signature] = digest_value([(str(file.relative_to(path)), digest_file(file)) for file in files])
            # Only a cache: where it cannot be written, the files are read again next time.
            with contextlib.suppress(StorageError):
                write_json(cache_path, cache)
        return cache[signature]
    except OSError as cause:
        raise error(
            str(cause.filename or path), f"cannot be read ({cause.strerror})", "Change its permissions"
        ) from cause


def files_below(folder: Path, store_root: Path | None = None) -> list[Path]:
    """Files of a folder, without hidden ones, the store and folders of runs, which change with every run."""
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and Path(parent, name).resolve() != store_root
            # A folder of that name is the store of runs that were started there, beside files of the user.
            and not Path(parent, name, _RUN_MARK).is_file()
        )
        found += [Path(parent, name) for name in sorted(names) if not name.startswith(".")]
    return found


def _stat(path: Path) -> tuple[int, ...]:
    # With the inode and its change time: copying with kept times must not pass for no change.
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def _read_cache(path: Path) -> dict[str, str]:
    try:
        cache = read_json(path, EspalierError)
    except EspalierError:
        return {}
    return cache if isinstance(cache, dict) else {}
