"""The store: whole results or none, one writer at a time."""

from __future__ import annotations

import errno
import multiprocessing
import os
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from devices.errors import StorageError
from pipeline.store import Store

HERE = "class of this machine"


def never() -> None:
    raise AssertionError("nobody else is making this")


def write(text: str) -> object:
    def make(folder: Path) -> dict[str, object]:
        (folder / "sub").mkdir()
        (folder / "sub" / "a.txt").write_text(text)
        return {"length": len(text)}

    return make


def test_a_result_is_made_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = store.make("stage", "key", HERE, write("hello"), never)  # type: ignore[arg-type]
    again = store.make("stage", "key", "another", write("other"), never)  # type: ignore[arg-type]
    # Who made it stays known, whoever asks.
    assert (first.host_class, again.host_class) == (HERE, HERE)
    assert not first.reused
    assert again.reused
    assert (again.digest, again.metrics) == (first.digest, {"length": 5})
    assert (again.folder / "sub" / "a.txt").read_text() == "hello"


def test_digest_is_of_the_files_alone(tmp_path: Path) -> None:
    """Equal files under another key have an equal digest; another byte has another."""
    store = Store(tmp_path)
    one = store.make("stage", "one", HERE, write("same"), never)  # type: ignore[arg-type]
    two = store.make("stage", "two", HERE, write("same"), never)  # type: ignore[arg-type]
    three = store.make("stage", "three", HERE, write("samf"), never)  # type: ignore[arg-type]
    assert one.digest == two.digest != three.digest


@pytest.mark.parametrize("damage", ["change", "remove", "result", "garbage"])
def test_a_damaged_result_counts_as_none(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    made = store.make("stage", "key", HERE, write("hello"), never)  # type: ignore[arg-type]
    path = made.folder / "sub" / "a.txt"
    if damage == "change":
        path.write_text("hellp")
    elif damage == "remove":
        path.unlink()
    elif damage == "result":
        (made.folder / "result.json").unlink()
    else:
        (made.folder / "result.json").write_text('{"format": 3, "files": 7}')
    assert store.find("stage", "key") is None
    assert store.make("stage", "key", HERE, write("hello"), never).digest == made.digest  # type: ignore[arg-type]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail(folder: Path) -> dict[str, object]:
        (folder / "half.bin").write_text("half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        store.make("stage", "key", HERE, fail, never)
    assert store.find("stage", "key") is None
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "locks"]


def test_a_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fill(folder: Path) -> dict[str, object]:
        from devices.files import storage_errors

        with storage_errors(folder):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError, match="the disk is full"):
        store.make("stage", "key", HERE, fill, never)


def test_a_file_where_the_store_should_be(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(StorageError, match="store"):
        Store(tmp_path / "store").make("stage", "key", HERE, write("x"), never)  # type: ignore[arg-type]


def test_a_place_that_takes_no_folder() -> None:
    with pytest.raises(StorageError, match=r"^/proc/espalier: no folder can be made here .*Choose another folder"):
        Store(Path("/proc/espalier")).make("stage", "key", HERE, write("x"), never)  # type: ignore[arg-type]


def _slow(root: Path, started: Event, told: Event) -> None:
    def make(folder: Path) -> dict[str, object]:
        started.set()
        told.wait(120)
        # For one that is told, and then does not wait.
        time.sleep(0.5)
        (folder / "a.txt").write_text("from the other process")
        return {}

    Store(root).make("stage", "key", HERE, make, never)


def test_the_second_waits_for_the_first(tmp_path: Path) -> None:
    """Another process is making the result: we are told, wait, and get its result."""
    context = multiprocessing.get_context("spawn")
    started, told = context.Event(), context.Event()
    other = context.Process(target=_slow, args=(tmp_path, started, told))
    other.start()
    assert started.wait(120)
    times = []

    def waiting() -> None:
        times.append(1)
        told.set()

    stored = Store(tmp_path).make("stage", "key", HERE, write("ours"), waiting)  # type: ignore[arg-type]
    told.set()
    other.join()
    assert times == [1]
    assert stored.reused
    assert (stored.folder / "a.txt").read_text() == "from the other process"


def test_what_a_killed_run_could_go_on_from_goes_when_it_is_done(tmp_path: Path) -> None:
    """A run killed between storing a result and cleaning up; the next one that makes anything cleans up for it."""
    store = Store(tmp_path)
    store.make("stage", "done", HERE, write("x"), never)  # type: ignore[arg-type]
    done, going_on = store.partial_folder("stage", "done"), store.partial_folder("stage", "going-on")
    for folder in (done, going_on):
        folder.mkdir(parents=True)
        (folder / "epoch").write_text("1")
    store.make("stage", "next", HERE, write("y"), never)  # type: ignore[arg-type]
    assert not done.exists()
    assert (going_on / "epoch").read_text() == "1"
