"""Archives at the very ends of what is taken: sizes, counts, folders, names, and what stands behind the end."""

from __future__ import annotations

import stat
import tarfile
from pathlib import Path

import pytest

from devices.archive import LIMITS, ArchiveLimits, is_archive, unpacked
from devices.errors import BundleError
from tests.devices.test_archive import entry, found_in, packed, refusal

MIB = 1 << 20


def test_limits_are_those_that_the_docs_name() -> None:
    assert ArchiveLimits(max_bytes=8_589_934_592, max_files=10_000) == LIMITS


@pytest.mark.parametrize(
    ("name", "found"), [("a.tar.gz", True), ("a.tar", False), ("a.gz", False), ("folder.tar.gz", False)]
)
def test_an_archive_is_known_by_its_name(tmp_path: Path, name: str, found: bool) -> None:
    (tmp_path / "folder.tar.gz").mkdir()
    assert is_archive(tmp_path / name) == found


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, MIB - 1, MIB, MIB + 1, 2 * MIB + 7])
def test_a_file_of_any_size_comes_out_whole_and_cannot_be_run(tmp_path: Path, size: int) -> None:
    """Nothing is lost where a block ends, and the next file begins where it does."""
    files = {"a": bytes(range(251)) * (size // 251 + 1), "b": b"after"}
    files["a"] = files["a"][:size]
    archive = packed(tmp_path / "a.tar.gz", *(entry(f"top/{name}", data=data) for name, data in files.items()))
    with unpacked(archive) as top:
        assert found_in(top) == files
        assert all(not path.stat().st_mode & (stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH) for path in top.iterdir())


def test_as_many_bytes_as_the_limit_are_taken(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.tar.gz", entry("top/a", data=bytes(60)), entry("top/b", data=bytes(40)))
    with unpacked(archive, ArchiveLimits(max_bytes=100)) as top:
        assert len(list(top.iterdir())) == 2
    assert "or 99 bytes" in refusal(archive, ArchiveLimits(max_bytes=99))


def test_folders_are_made_and_count_once(tmp_path: Path) -> None:
    """Told or implied by a name; empty ones too."""
    names = [entry("top", tarfile.DIRTYPE), entry("top/empty/", tarfile.DIRTYPE), entry("top/full", tarfile.DIRTYPE)]
    archive = packed(tmp_path / "a.tar.gz", *names, entry("top/full/a", data=b"x"))
    with unpacked(archive, ArchiveLimits(max_files=4)) as top:
        assert top.name == "top"
        assert (top / "empty").is_dir()
        assert found_in(top) == {"full/a": b"x"}
    assert "more than 3 files" in refusal(archive, ArchiveLimits(max_files=3))


def test_a_bundle_may_be_one_empty_folder(tmp_path: Path) -> None:
    with unpacked(packed(tmp_path / "a.tar.gz", entry("top", tarfile.DIRTYPE))) as top:
        assert list(top.iterdir()) == []


def test_an_archive_of_nothing_is_refused(tmp_path: Path) -> None:
    assert "holds 0 folders" in refusal(packed(tmp_path / "a.tar.gz"))


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE])
@pytest.mark.parametrize("name", ["", ".", "./."])
def test_a_name_of_no_parts_is_refused(tmp_path: Path, name: str, kind: bytes) -> None:
    assert "no path within one folder" in refusal(packed(tmp_path / "a.tar.gz", entry(name, kind)))


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    files = [entry("top/a", data=b"x"), entry("top/a", tarfile.DIRTYPE)]
    assert "twice" in refusal(packed(tmp_path / "a.tar.gz", *files))


def test_a_size_below_nothing_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("top/a")
    info.size = -1
    archive = packed(tmp_path / "a.tar.gz", info.tobuf(tarfile.GNU_FORMAT))
    assert "neither a plain file nor a folder" in refusal(archive)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.AREGTYPE])
def test_plain_files_of_old_archives_are_plain_files(tmp_path: Path, kind: bytes) -> None:
    with unpacked(packed(tmp_path / "a.tar.gz", entry("top/a", kind, data=b"x"))) as top:
        assert found_in(top) == {"a": b"x"}


def test_less_than_1_mib_of_zeros_may_stand_behind_the_end(tmp_path: Path) -> None:
    """`tar` fills its last record; whoever unpacks more was sent a bomb."""
    most = 512 + MIB - 1
    with unpacked(packed(tmp_path / "a.tar.gz", entry("top/a", data=b"x"), end=bytes(most))) as top:
        assert found_in(top) == {"a": b"x"}
    for more in (1, 2, MIB):
        with (
            pytest.raises(BundleError, match="goes on after its end"),
            unpacked(packed(tmp_path / "b.tar.gz", entry("top/a", data=b"x"), end=bytes(most + more))),
        ):
            pass


@pytest.mark.parametrize("zeros", [0, 1, 511])
def test_an_end_that_is_cut_is_refused(tmp_path: Path, zeros: int) -> None:
    assert "is no whole archive" in refusal(packed(tmp_path / "a.tar.gz", entry("top/a", data=b"x"), end=bytes(zeros)))
