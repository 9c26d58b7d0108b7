"""The agent's one folder: whose it is, what is kept by digest, who uses it, and its end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.agent_cache import Cache, open_cache, write_piece
from devices.agent_lock import Session, clean, session
from devices.errors import BundleError, StorageError
from devices.files import digest_bytes


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return open_cache(str(tmp_path / "cache"))


def send(cache: Cache, content: bytes, offset: int, until: int, digest: str) -> None:
    with cache.appending(digest, offset) as handle:
        write_piece(cache, handle, content[offset:until])


def test_the_folder_is_for_its_user_alone(cache: Cache) -> None:
    for folder in (cache.root, *(path for path in cache.root.iterdir() if path.is_dir())):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    os.chmod(cache.root, 0o755)
    assert stat.S_IMODE(open_cache(str(cache.root)).root.stat().st_mode) == 0o700


def test_a_folder_of_others_is_refused_and_stays(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for call in (open_cache, clean):
        with pytest.raises(StorageError, match=r"holds files and is not a cache of Espalier"):
            call(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_link_is_refused(tmp_path: Path, cache: Cache) -> None:
    (tmp_path / "link").symlink_to(cache.root)
    with pytest.raises(StorageError, match="is a link"):
        open_cache(str(tmp_path / "link"))


def test_a_path_that_depends_on_where_one_is_is_refused() -> None:
    with pytest.raises(StorageError, match="is not a path from the root"):
        open_cache("cache")


@given(st.binary(max_size=40), st.lists(st.integers(0, 40), max_size=5))
def test_content_goes_on_where_it_stopped(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, cuts: list[int]
) -> None:
    cache = open_cache(str(tmp_path_factory.mktemp("cache") / "cache"))
    digest = digest_bytes(content)
    for cut in sorted(min(cut, max(len(content) - 1, 0)) for cut in cuts):
        held = cache.held_bytes(digest, len(content))
        send(cache, content, held, max(held, cut), digest)
        assert cache.held_bytes(digest, len(content)) == (max(held, cut) if len(content) else 0)
    send(cache, content, cache.held_bytes(digest, len(content)), len(content), digest)
    assert cache.finish(digest)
    assert cache.blob(digest).read_bytes() == content
    assert cache.held_bytes(digest, len(content)) == len(content)
    assert [path.name for path in (cache.root / "blobs").iterdir()] == [digest]


def test_a_spoilt_start_is_thrown_away(cache: Cache) -> None:
    content = b"0123456789"
    digest = digest_bytes(content)
    send(cache, b"012X4", 0, 5, digest)
    send(cache, content, cache.held_bytes(digest, 10), 10, digest)
    assert not cache.finish(digest)
    assert cache.held_bytes(digest, 10) == 0
    assert list((cache.root / "blobs").iterdir()) == []


def test_two_that_send_the_same_are_noticed(cache: Cache) -> None:
    digest = digest_bytes(b"0123456789")
    send(cache, b"0123456789", 0, 5, digest)
    with pytest.raises(StorageError, match="changed while it was sent"), cache.appending(digest, 3):
        pass


@pytest.mark.parametrize("digest", ["", "..", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_only_a_digest_names_content(cache: Cache, digest: str) -> None:
    with pytest.raises(BundleError, match="is no SHA-256"):
        cache.blob(digest)


def test_a_session_sweeps_what_is_old(cache: Cache) -> None:
    old, new = (cache.root / "blobs" / name for name in ("a" * 64, "b" * 64))
    for path in (old, new):
        path.write_bytes(b"x")
    (cache.root / "tmp" / "left" / "behind").mkdir(parents=True)
    os.utime(old, (0, 0))
    with session(str(cache.root)):
        assert [path for path in (old, new) if path.exists()] == [new]
        assert list((cache.root / "tmp").iterdir()) == []


def test_nothing_is_swept_while_another_works(cache: Cache) -> None:
    with session(str(cache.root)):
        (cache.root / "tmp" / "job").mkdir()
        with session(str(cache.root)):
            assert (cache.root / "tmp" / "job").is_dir()


def test_one_measures_at_a_time(cache: Cache) -> None:
    first, second = Session(cache), Session(cache)
    assert first.try_measure("anna@desk") is None
    assert second.try_measure("bert@desk") == "anna@desk"
    assert not second.measures
    first.stop_measuring()
    assert second.try_measure("bert@desk") is None
    assert first.try_measure("anna@desk") == "bert@desk"
    second.end()
    assert first.try_measure("anna@desk") is None
    first.end()


def test_clean_removes_all_and_only_that(cache: Cache) -> None:
    digest = digest_bytes(b"content")
    send(cache, b"content", 0, 7, digest)
    cache.finish(digest)
    beside = cache.root.parent / "beside"
    beside.write_text("stays")
    with session(str(cache.root)), pytest.raises(StorageError, match="in use by another session"):
        clean(str(cache.root))
    found = clean(str(cache.root))
    assert isinstance(found["removed_bytes"], int)
    assert found["removed_bytes"] >= 7
    assert list(cache.root.parent.iterdir()) == [beside]
    assert clean(str(cache.root))["removed_bytes"] == 0
