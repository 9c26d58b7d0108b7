"""Images in class folders: `train/<class>/*` and `test/<class>/*`, in a folder or a tar archive."""

from __future__ import annotations

import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from devices.errors import DataError
from pipeline.data import Dataset, Split

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp")
_DAMAGED = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)


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
    `train`, sorted. `*_per_class` keeps the first so many files of each class by name. Names that begin with a dot are
    passed over. Nothing is unpacked to disk. Raises `DataError` that names the file.
    """
    root = Path(path)
    shape = _checked(color, size, {"train_per_class": train_per_class, "test_per_class": test_per_class})
    if not root.exists():
        raise DataError("data.args.path", f"there is no {root}", "Give a folder or a tar archive of class folders")
    reader: _Reader = _FolderReader(root) if root.is_dir() else _TarReader(root, train)
    listed = reader.listed()
    classes = sorted({parts[1] for parts in listed if parts[0] == train})
    for part in (train, test):
        if not any(parts[0] == part for parts in listed):
            raise DataError(
                str(root),
                f"has no folder {part}/<class>",
                f"Lay images out as {train}/<class>/*.png and {test}/<class>/*.png",
            )
    for parts in listed:
        if parts[0] == test and parts[1] not in classes:
            raise DataError(f"{root}: {test}/{parts[1]}", f"is no class of {train}", "Add it there or remove it here")
    limits = {train: train_per_class, test: test_per_class}
    wanted = {
        (part, name): _files(listed, part, name, limits[part], root) for part in (train, test) for name in classes
    }
    decoded = _decoded(reader, {file for files in wanted.values() for file in files}, color, shape)
    splits = []
    for part in (train, test):
        files = [(file, label) for label, name in enumerate(classes) for file in wanted[part, name]]
        images = np.stack([decoded[file] for file, _ in files])
        splits.append(Split(images, np.array([label for _, label in files], dtype=np.int64)))
    return Dataset(train=splits[0], test=splits[1], class_names=tuple(classes))


class _Reader(Protocol):
    """A folder or an archive."""

    def listed(self) -> list[tuple[str, ...]]:
        """Parts of the path of every class folder, (part, class), and of every file in one, (part, class, file)."""

    def contents(self, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
        """Each wanted file's path and bytes."""


class _FolderReader:
    """Files below a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def listed(self) -> list[tuple[str, ...]]:
        folders = [path for path in self._root.glob("*/*") if path.is_dir()]
        files = [path for folder in folders for path in folder.iterdir() if not path.is_dir()]
        return [parts for path in [*folders, *files] if _is_shown(parts := path.relative_to(self._root).parts)]

    def contents(self, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
        for name in sorted(wanted):
            try:
                content = (self._root / name).read_bytes()
            except OSError as cause:
                raise DataError(name, f"cannot be read ({cause.strerror})", "Remove or replace the file") from cause
            yield name, content


class _TarReader:
    """Members of a tar archive, which may have one folder around everything."""

    def __init__(self, path: Path, train: str) -> None:
        self._path = path
        self._train = train
        self._prefix = 0

    def listed(self) -> list[tuple[str, ...]]:
        with self._open() as archive:
            try:
                members = [(PurePosixPath(member.name).parts, member.isdir()) for member in archive]
                _require_end(archive)
            except _DAMAGED as cause:
                raise self._damaged(cause) from cause
        # Nothing is unpacked, so a path that leads elsewhere is no danger, and no image either.
        members = [(parts, is_folder) for parts, is_folder in members if parts and _is_shown(parts)]
        tops = {parts[0] for parts, _ in members}
        self._prefix = 1 if len(tops) == 1 and self._train not in tops else 0
        listed = []
        for parts, is_folder in members:
            own = parts[self._prefix :]
            if len(own) == 3 and not is_folder:
                listed += [own[:2], own]
            elif len(own) == 2 and is_folder:
                listed.append(own)
        return listed

    def contents(self, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
        with self._open() as archive:
            try:
                for member in archive:
                    name = "/".join(PurePosixPath(member.name).parts[self._prefix :])
                    if name in wanted and not member.isdir():
                        yield name, self._content(archive, member)
            except _DAMAGED as cause:
                raise self._damaged(cause) from cause

    def _content(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
        try:
            stream = archive.extractfile(member)
        # A link to nothing, or to itself.
        except (KeyError, RecursionError):
            stream = None
        if stream is None:
            raise DataError(f"{self._path}: {member.name}", "is not a file of this archive", "Pack the file itself")
        return stream.read()

    def _open(self) -> tarfile.TarFile:
        try:
            return tarfile.open(self._path)
        except _DAMAGED as cause:
            raise self._damaged(cause) from cause

    def _damaged(self, cause: BaseException) -> DataError:
        return DataError(str(self._path), f"cannot be read as a tar archive ({cause})", "Fetch it again")


def _require_end(archive: tarfile.TarFile) -> None:
    """A header that is damaged ends the archive in tarfile's eyes; in ours it is damage."""
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"damaged at byte {archive.offset}")
    # A compressed stream is checked when its end is read.
    while archive.fileobj.read(1 << 20):
        pass


def _is_shown(parts: tuple[str, ...]) -> bool:
    return not any(part.startswith((".", "/")) for part in parts)


def _checked(color: str, size: list[int] | None, limits: dict[str, int | None]) -> tuple[int, int] | None:
    """The size as height and width. Raises `DataError` on arguments out of range."""
    if color not in ("rgb", "gray"):
        raise DataError("data.args.color", f"'{color}' is not rgb or gray", "Use one of them")
    for name, limit in limits.items():
        if limit is not None and (type(limit) is not int or limit < 1):
            raise DataError(f"data.args.{name}", f"is {limit!r}", "Give a whole number from 1, or leave it out")
    if size is None:
        return None
    if not isinstance(size, (list, tuple)) or len(size) != 2 or not all(type(n) is int and n > 0 for n in size):
        raise DataError("data.args.size", f"is {size!r}", "Give [height, width] in pixels")
    return size[0], size[1]


def _files(listed: list[tuple[str, ...]], part: str, name: str, limit: int | None, root: Path) -> list[str]:
    found = sorted(
        {
            "/".join(parts)
            for parts in listed
            if parts[:2] == (part, name) and len(parts) == 3 and PurePosixPath(parts[2]).suffix.lower() in _SUFFIXES
        }
    )
    if not found:
        raise DataError(
            f"{root}: {part}/{name}", f"holds no image ({', '.join(_SUFFIXES)})", "Add images or remove the class"
        )
    return found[:limit]


def _decoded(
    reader: _Reader, wanted: set[str], color: str, size: tuple[int, int] | None
) -> dict[str, NDArray[np.uint8]]:
    """Every wanted image by its path, all of one shape."""
    decoded: dict[str, NDArray[np.uint8]] = {}
    for name, content in reader.contents(wanted):
        decoded[name] = _decode(name, content, color, size)
        first = next(iter(decoded.values()))
        if decoded[name].shape != first.shape:
            raise DataError(
                name, f"is {decoded[name].shape[1:]} and not {first.shape[1:]}", "Set data.args.size = [height, width]"
            )
    return decoded


def _decode(name: str, content: bytes, color: str, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """One image file to uint8 (C, H, W)."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as opened:
            mode = opened.mode
            image = opened.convert("L" if color == "gray" else "RGB")
    # Pillow's decoders raise OSError, SyntaxError, ValueError and their own on damaged files.
    except Exception as cause:
        raise DataError(
            name, f"cannot be read as an image ({type(cause).__name__})", "Remove or replace the file"
        ) from cause
    if mode.startswith(("I", "F")):
        # Pillow cuts more than 8 bits off at 255: nearly all of such an image would be white.
        raise DataError(name, f"has pixels of mode {mode}", "Save it with 8 bits per channel")
    if size:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    array = np.asarray(image, dtype=np.uint8)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
