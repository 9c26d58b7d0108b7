"""Digests of what a recipe names outside itself: model code and weights, data code and files. Imports nothing of it."""

from __future__ import annotations

import os
from pathlib import Path

from devices.errors import DataError, EspalierError, ModelError
from devices.files import digest_file, digest_value, read_json, write_json
from pipeline.factory import factory_digest
from pipeline.recipe import DataConfig, ModelConfig, is_path_argument

_CACHE_NAME = "file-digests.json"


def model_fingerprint(config: ModelConfig) -> dict[str, object]:
    """All of the model section that decides the network. Raises `ModelError` when the weights are missing."""
    weights = None
    if config.weights is not None:
        path = Path(config.weights)
        if not path.is_file():
            raise ModelError("model.weights", f"there is no file {path}", "Paths are relative to the recipe's folder")
        weights = digest_file(path)
    return {
        "factory": factory_digest(config.factory, "model.factory"),
        "args": config.args,
        "weights": weights,
        "mean": config.mean,
        "std": config.std,
    }


def data_fingerprint(config: DataConfig, store_root: Path) -> dict[str, object]:
    """All of the data section that decides the images; files and folders count by content."""
    arguments: dict[str, object] = {}
    for name, value in config.args.items():
        if is_path_argument(name) and isinstance(value, str):
            path = Path(value)
            if not path.exists():
                raise DataError(f"data.args.{name}", f"there is no {path}", "Give it with --set, or mend the recipe")
            arguments[name] = _content(path, store_root)
        else:
            arguments[name] = value
    return {"factory": factory_digest(config.factory, "data.factory"), "args": arguments}


def _content(path: Path, store_root: Path) -> str:
    """Digest of a file, or of a folder's files by name; remembered while sizes and times stay the same."""
    files = [path] if path.is_file() else _files_below(path)
    stats = [(str(file.relative_to(path)), *_stat(file)) for file in files]
    signature = digest_value([str(path.resolve()), stats])
    cache_path = store_root / _CACHE_NAME
    cache = _read_cache(cache_path)
    if signature not in cache:
        rows = [(str(file.relative_to(path)), digest_file(file)) for file in files]
        cache[signature] = digest_value(rows)
        write_json(cache_path, cache)
    return cache[signature]


def _files_below(folder: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        found += [Path(parent, name) for name in sorted(names)]
    return found


def _stat(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError as cause:
        raise DataError(str(path), f"cannot be read ({cause.strerror})") from cause
    return stat.st_size, stat.st_mtime_ns


def _read_cache(path: Path) -> dict[str, str]:
    try:
        cache = read_json(path, EspalierError)
    except EspalierError:
        return {}
    return cache if isinstance(cache, dict) else {}
