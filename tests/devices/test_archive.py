"""Archives of bundles: the same bytes from the same files, and nothing but plain files within limits comes out."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.archive import ArchiveLimits, unpack, unpacked
from devices.errors import BundleError, StorageError
from exporters.archive import write_archive

CONTENT = {"manifest.json": b"{}", "engine/engine.onnx": bytes(range(256)) * 9, "empty": b""}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_files(tmp_path / "bundle", CONTENT)


def write_files(folder: Path, content: dict[str, bytes]) -> Path:
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def found_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def entry(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **more: object) -> bytes:
    """One member of a tar, whatever it is called and is."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    for key, value in more.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def packed(path: Path, *entries: bytes, end: bytes = bytes(1024)) -> Path:
    path.write_bytes(gzip.compress(b"".join(entries) + end))
    return path


def refusal(archive: Path, limits: ArchiveLimits | None = None) -> str:
    place = archive.parent / "place"
    place.mkdir()
    with pytest.raises(BundleError) as caught:
        unpack(archive, place, limits or ArchiveLimits())
    return str(caught.value)


def test_what_was_packed_comes_out(folder: Path, tmp_path: Path) -> None:
    write_archive(folder, tmp_path / "a.tar.gz", "digits-1.0-cpu")
    with unpacked(tmp_path / "a.tar.gz") as top:
        assert top.name == "digits-1.0-cpu"
        assert found_in(top) == CONTENT
    assert not top.exists()


def test_other_tools_unpack_it(folder: Path, tmp_path: Path) -> None:
    write_archive(folder, tmp_path / "a.tar.gz", "top")
    with tarfile.open(tmp_path / "a.tar.gz") as archive:
        names = archive.getnames()
        assert names == sorted(f"top/{name}" for name in CONTENT)
        assert {(member.mtime, member.uid, member.uname, member.mode) for member in archive} == {(0, 0, "", 0o644)}


def test_the_same_files_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    other = write_files(tmp_path / "elsewhere", dict(reversed(CONTENT.items())))
    os.utime(other / "empty", (1, 1))
    (other / "empty").chmod(0o600)
    write_archive(folder, tmp_path / "a.tar.gz", "top")
    write_archive(other, tmp_path / "b.tar.gz", "top")
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (entry("../outside", data=b"x"), "no path within one folder"),
        (entry("top/../../outside", data=b"x"), "no path within one folder"),
        (entry("/etc/passwd", data=b"x"), "no path within one folder"),
        (entry("top\\..\\outside", data=b"x"), "no path within one folder"),
        (entry("bare", data=b"x"), "no path within one folder"),
        (entry("top/link", tarfile.SYMTYPE, linkname="/etc/passwd"), "neither a plain file nor a folder"),
        (entry("top/link", tarfile.LNKTYPE, linkname="top/a"), "neither a plain file nor a folder"),
        (entry("top/pipe", tarfile.FIFOTYPE), "neither a plain file nor a folder"),
        (entry("top/disk", tarfile.CHRTYPE), "neither a plain file nor a folder"),
        (entry("top/long", tarfile.GNUTYPE_LONGNAME, data=b"x"), "neither a plain file nor a folder"),
        (entry("top/sparse", tarfile.GNUTYPE_SPARSE, data=b"x"), "neither a plain file nor a folder"),
        (entry("top/pax", tarfile.XHDTYPE, data=b"x"), "neither a plain file nor a folder"),
        (entry("top/a", data=b"y"), "twice"),
        (entry("top/a/below", data=b"y"), "twice"),
        (entry("second/a", data=b"y"), "holds 2 folders"),
        (entry("top/folder", tarfile.DIRTYPE, data=b"y"), "with content"),
    ],
)
def test_anything_but_plain_files_in_one_folder_is_refused(tmp_path: Path, bad: bytes, told: str) -> None:
    archive = packed(tmp_path / "a.tar.gz", entry("top/a", data=b"x"), bad)
    assert told in refusal(archive)
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar.gz", "place"}


def test_more_than_the_limits_is_refused_before_it_is_written(tmp_path: Path) -> None:
    bomb = packed(tmp_path / "bomb.tar.gz", entry("top/a", data=bytes(1 << 20)))
    assert bomb.stat().st_size < 5000
    assert "more than" in refusal(bomb, ArchiveLimits(max_bytes=1 << 19))
    assert not any((tmp_path / "place").rglob("a"))


def test_a_disk_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine tenths of its free space may be taken: two files fit that of 1000 bytes, and a third does not."""
    files = [entry(f"top/{number}", data=bytes(450)) for number in range(3)]
    monkeypatch.setattr("devices.archive.shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with unpacked(packed(tmp_path / "fits.tar.gz", *files[:2])) as top:
        assert len(list(top.iterdir())) == 2
    (tmp_path / "place").mkdir()
    with pytest.raises(StorageError) as caught:
        unpack(packed(tmp_path / "a.tar.gz", *files), tmp_path / "place")
    assert "unpacks to more than 900 bytes" in caught.value.what
    assert "TMPDIR" in caught.value.fix
    assert {path.name for path in (tmp_path / "place" / "top").iterdir()} == {"0", "1"}


def test_a_header_that_promises_more_than_there_is_takes_no_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("top/a")
    info.size = 7 << 30
    archive = packed(tmp_path / "a.tar.gz", info.tobuf(tarfile.GNU_FORMAT), end=bytes(4096))
    assert "is no whole archive" in refusal(archive)


def test_many_files_are_refused(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.tar.gz", *(entry(f"top/{number}") for number in range(4)))
    assert "more than 3 files" in refusal(archive, ArchiveLimits(max_files=3))


def test_folders_that_names_imply_count_too(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.tar.gz", *(entry(f"{number}/" + "a/" * 40 + "b") for number in range(3)))
    assert "more than 100 files" in refusal(archive, ArchiveLimits(max_files=100))
    shared = packed(tmp_path / "b.tar.gz", *(entry("top/" + "a/" * 40 + str(number)) for number in range(3)))
    with unpacked(shared, ArchiveLimits(max_files=44)) as top:
        assert len(list(top.rglob("*"))) == 43
    with pytest.raises(BundleError, match="more than 43 files"), unpacked(shared, ArchiveLimits(max_files=43)):
        pass


def test_what_goes_on_after_its_end_is_refused(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.tar.gz", entry("top/a"), end=bytes(1024) + b"hidden")
    assert "goes on after its end" in refusal(archive)


def test_a_missing_or_other_file_is_one_message(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none.tar.gz")
    (tmp_path / "place").rmdir()
    (tmp_path / "text.tar.gz").write_text("not an archive")
    assert "is no whole archive" in refusal(tmp_path / "text.tar.gz")


@settings(max_examples=60)
@given(cut=st.floats(min_value=0, max_value=0.999))
def test_a_half_downloaded_archive_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: float) -> None:
    base = tmp_path_factory.mktemp("cut")
    write_archive(write_files(base / "bundle", CONTENT), base / "a.tar.gz", "top")
    whole = (base / "a.tar.gz").read_bytes()
    (base / "a.tar.gz").write_bytes(whole[: int(cut * len(whole))])
    assert "is no whole archive" in refusal(base / "a.tar.gz")


@settings(max_examples=200)
@given(position=st.integers(min_value=0), value=st.integers(min_value=1, max_value=255), inside=st.booleans())
def test_a_changed_byte_gives_the_same_files_or_one_message(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int, inside: bool
) -> None:
    """Of the compressed bytes, whose checksum tells; and of the tar inside, whose headers do: nothing gets out."""
    base = tmp_path_factory.mktemp("flip")
    write_archive(write_files(base / "bundle", CONTENT), base / "a.tar.gz", "top")
    stored = (base / "a.tar.gz").read_bytes()
    content = bytearray(gzip.decompress(stored) if inside else stored)
    content[position % len(content)] ^= value
    (base / "a.tar.gz").write_bytes(gzip.compress(bytes(content)) if inside else bytes(content))
    (base / "place").mkdir()
    try:
        top = unpack(base / "a.tar.gz", base / "place")
    except BundleError:
        return
    finally:
        assert {path.name for path in base.iterdir()} == {"bundle", "a.tar.gz", "place"}
    if not inside:
        # A byte of gzip's own header that says nothing of the content.
        assert found_in(top) == CONTENT


def test_a_file_that_grows_while_it_is_packed_is_noticed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Growing(io.FileIO):
        def __init__(self, path: Path, mode: str) -> None:
            super().__init__(path, mode)
            os.truncate(path, os.path.getsize(path) + 10)

    monkeypatch.setattr("exporters.archive.open", Growing, raising=False)
    with pytest.raises(BundleError, match="changed while it was packed"):
        write_archive(folder, tmp_path / "out" / "a.tar.gz", "top")
    assert not list((tmp_path / "out").iterdir())


def test_a_name_that_the_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "bundle", {"x" * 120: b"1"})
    with pytest.raises(BundleError, match="cannot be packed"):
        write_archive(folder, tmp_path / "a.tar.gz", "top")
