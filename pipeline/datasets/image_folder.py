"""Images in class folders: `train/<class>/*` and `test/<class>/*`, in a folder or a tar archive."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from devices.errors import DataError
from pipeline.data import Dataset, Split

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp"}


def image_folder(
    path: str,
    train: str = "train",
    test: str = "test",
    color: str = "rgb",
    size: list[int] | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
) -> Dataset:
    """Read every image into memory as uint8, (N, 3, H, W) or (N, 1, H, W) with `color = "gray"`.

    `size = [height, width]` resizes (bilinear); without it all images must have one size. Classes are the folders of
    `train`, sorted. `*_per_class` keeps the first so many files of each class by name. Nothing is unpacked to disk.
    Raises `DataError` that names the file.
    """
    root = Path(path)
    if color not in ("rgb", "gray"):
        raise DataError("data.args.color", f"'{color}' is not rgb or gray")
    if not root.exists():
        raise DataError("data.args.path", f"there is no {root}", "Give a folder or a tar archive of class folders")
    reader = _FolderReader(root) if root.is_dir() else _TarReader(root)
    listed = reader.listed()
    classes = sorted({parts[1] for parts in listed if parts[0] == train})
    if not classes:
        raise DataError(
            str(root), f"has no folder {train}/<class>", "See pipeline/datasets/image_folder.py for the form"
        )
    limits = {train: train_per_class, test: test_per_class}
    wanted = {
        (part, name): _files(listed, part, name, limits[part], root) for part in (train, test) for name in classes
    }
    shape = (size[0], size[1]) if size else None
    decoded: dict[str, NDArray[np.uint8]] = {}
    for name, content in reader.contents({file for files in wanted.values() for file in files}):
        decoded[name] = _decode(name, content, color, shape)
        first = next(iter(decoded.values()))
        if decoded[name].shape != first.shape:
            raise DataError(
                name, f"is {decoded[name].shape[1:]} and not {first.shape[1:]}", "Set data.args.size = [height, width]"
            )
    splits = []
    for part in (train, test):
        files = [(file, label) for label, name in enumerate(classes) for file in wanted[part, name]]
        images = np.stack([decoded[file] for file, _ in files])
        splits.append(Split(images, np.array([label for _, label in files], dtype=np.int64)))
    return Dataset(train=splits[0], test=splits[1], class_names=tuple(classes))


class _FolderReader:
    """Files below a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def listed(self) -> list[tuple[str, ...]]:
        """Parts of every path two folders deep or more, empty folders too."""
        return [path.relative_to(self._root).parts for path in self._root.glob("*/*")] + [
            path.relative_to(self._root).parts for path in self._root.glob("*/*/*")
        ]

    def contents(self, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
        for name in sorted(wanted):
            yield name, (self._root / name).read_bytes()


class _TarReader:
    """Members of a tar archive, which may have one folder around everything."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._prefix = 0

    def listed(self) -> list[tuple[str, ...]]:
        parts = [PurePosixPath(member.name).parts for member in self._members()]
        tops = {entry[0] for entry in parts if entry}
        if len(tops) == 1:
            self._prefix = 1
        return [entry[self._prefix :] for entry in parts if len(entry) > 1 + self._prefix]

    def contents(self, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
        with self._open() as archive:
            try:
                for member in archive:
                    name = "/".join(PurePosixPath(member.name).parts[self._prefix :])
                    if name in wanted and member.isfile():
                        stream = archive.extractfile(member)
                        assert stream is not None
                        yield name, stream.read()
            except (tarfile.TarError, EOFError, OSError) as cause:
                raise self._damaged(cause) from cause

    def _members(self) -> list[tarfile.TarInfo]:
        with self._open() as archive:
            try:
                return archive.getmembers()
            except (tarfile.TarError, EOFError, OSError) as cause:
                raise self._damaged(cause) from cause

    def _open(self) -> tarfile.TarFile:
        try:
            return tarfile.open(self._path)
        except (tarfile.TarError, EOFError, OSError) as cause:
            raise self._damaged(cause) from cause

    def _damaged(self, cause: BaseException) -> DataError:
        return DataError(str(self._path), f"cannot be read as a tar archive ({cause})", "Fetch it again")


def _files(listed: list[tuple[str, ...]], part: str, name: str, limit: int | None, root: Path) -> list[str]:
    found = sorted(
        "/".join(parts)
        for parts in listed
        if parts[:2] == (part, name) and len(parts) == 3 and PurePosixPath(parts[2]).suffix.lower() in _SUFFIXES
    )
    if not found:
        raise DataError(f"{root}: {part}/{name}", "holds no image", "Add images or remove the class folder")
    return found[:limit]


def _decode(name: str, content: bytes, color: str, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """One image file to uint8 (C, H, W)."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as opened:
            image = opened.convert("L" if color == "gray" else "RGB")
    # Pillow's decoders raise OSError, SyntaxError, ValueError and their own on damaged files.
    except Exception as cause:
        raise DataError(name, f"cannot be read as an image ({cause})", "Remove or replace the file") from cause
    if size:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    array = np.asarray(image, dtype=np.uint8)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
