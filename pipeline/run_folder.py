"""The folder of a run: what the user looks at. Copies from the store, replaced as a whole."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from devices.bundle import open_bundle
from devices.errors import BundleError, EspalierError, StorageError
from devices.files import digest_file, read_json, storage_errors, write_json
from devices.trust.store import UNSIGNED
from exporters.package import copy_file
from pipeline.chain import Outcome
from pipeline.store import RESULT_FILE, Stored
from pipeline.work import Work

RUN_FILE = "run.json"
# Marks a folder as ours, from before its first file is written, and is what runs lock.
MARK_FILE = ".espalier"
_FORMAT = "espalier-run/1"
_FOLDERS = ("deploy", "evidence")
_REPORTS = ("report.html", "report.json")


def check_out(out: Path) -> None:
    """Refuse, before anything runs, a folder that publishing would harm or could not write. Raises `StorageError`."""
    try:
        _check_place(out)
    except OSError as cause:
        raise StorageError(str(out), f"cannot be read ({cause.strerror})", "Choose another --out") from cause


def _check_place(out: Path) -> None:
    nearest = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise StorageError(str(nearest), "is a file, and the run's folder should be there", "Choose another --out")
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as cause:
        raise StorageError(str(nearest), f"cannot be written ({cause.strerror})", "Choose another --out") from cause
    if out.exists() and any(out.iterdir()) and not (out / MARK_FILE).is_file():
        raise StorageError(str(out), "holds files that are not a run's", "Choose an empty or new folder as --out")
    for name in _FOLDERS:
        if (out / name).is_symlink() or ((out / name).exists() and not (out / name).is_dir()):
            raise StorageError(str(out / name), "is not a folder of a run", "Remove it or choose another --out")


def publish(work: Work, outcome: Outcome, out: Path) -> None:
    """Bring the run folder up to date: report, evidence, deploy if the gate passed, and which results they are.

    `run.json` is taken away first and comes back last: a folder without it is of a run that did not end, and no bundle
    of an earlier run stands beside the report of this one. Two runs with one folder take turns.
    """
    results = outcome.results
    index = _index(work, results)
    with storage_errors(out), _locked(out):
        if _is_current(out, index, results):
            return
        (out / RUN_FILE).unlink(missing_ok=True)
        _clear(out)
        for name in _FOLDERS:
            _set_aside(out / name)
        for name in _REPORTS:
            _replace_file(results["report"].folder / name, out / name)
        for name in _FOLDERS:
            if name in results:
                _place_folder(results[name].folder, out / name)
        write_json(out / RUN_FILE, index)


def read_run(folder: Path) -> dict[str, Any]:
    """`report.json` of a run folder. Raises `BundleError` when it is no run folder or damaged."""
    try:
        finished = (folder / RUN_FILE).is_file()
    except OSError as cause:
        what = f"cannot be read ({cause.strerror})"
        raise BundleError(str(folder), what, "Check the path and its permissions") from cause
    if not finished:
        raise BundleError(str(folder), "is not the folder of a finished run", "Give the --out folder of `espalier run`")
    report = read_json(folder / "report.json", BundleError)
    if not isinstance(report, dict) or report.get("format") != "espalier-report/1":
        raise BundleError(str(folder / "report.json"), "is not a report of this version", "Run the recipe again")
    _check_bundles(folder, report)
    return report


@contextmanager
def whole_report(folder: Path) -> Iterator[None]:
    """Work on a run's report: whatever is missing or of another kind in it raises `BundleError`."""
    try:
        yield
    except EspalierError:
        raise
    # Whatever it is, somebody or another version wrote it.
    except Exception as cause:
        where = str(folder / "report.json")
        raise BundleError(where, f"does not hold a whole report ({cause!r:.60})", "Run the recipe again") from cause


def _check_bundles(folder: Path, report: dict[str, Any]) -> None:
    """The bundles are whole, and the report is the one that the evidence holds."""
    evidence = open_bundle(folder / "evidence", "evidence", UNSIGNED)
    if evidence.digests.get("report.json") != digest_file(folder / "report.json"):
        raise BundleError(
            str(folder / "report.json"), "is not the report that the evidence holds", "Run the recipe again"
        )
    if report["verdict"]["passed"]:
        open_bundle(folder / "deploy", "deploy", UNSIGNED)


def _index(work: Work, results: Mapping[str, Stored]) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "name": work.recipe.name,
        "device": work.profile.name,
        "passed": results["verdict"].metrics["passed"],
        "results": {
            name: {"stage": stored.folder.parent.name, "key": stored.folder.name, "digest": stored.digest}
            for name, stored in results.items()
        },
    }


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    out.mkdir(parents=True, exist_ok=True)
    with open(out / MARK_FILE, "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _is_current(out: Path, index: dict[str, Any], results: Mapping[str, Stored]) -> bool:
    """Whether the folder already is exactly this run's."""
    try:
        if read_json(out / RUN_FILE, BundleError) != index:
            return False
    except BundleError:
        return False
    reports = results["report"].folder
    return all(
        (out / name).is_file() and digest_file(out / name) == digest_file(reports / name) for name in _REPORTS
    ) and all(
        _same(results[name].folder, out / name) if name in results else not (out / name).exists() for name in _FOLDERS
    )


def _clear(out: Path) -> None:
    """Remove what a publishing that was killed left there."""
    names = {f".{name}.{end}" for name in (*_FOLDERS, *_REPORTS) for end in ("partial", "old")}
    # As `write_json` names what it has not written yet; an editor's file is another.
    unwritten = re.compile(rf"\.{re.escape(RUN_FILE)}\.[a-z0-9_]{{8}}")
    for left in list(out.iterdir()):
        if left.name in names or unwritten.fullmatch(left.name):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink()


def _set_aside(folder: Path) -> None:
    """Remove a folder so that it is there whole or not at all."""
    aside = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        os.rename(folder, aside)
        shutil.rmtree(aside)


def _replace_file(source: Path, target: Path) -> None:
    partial = target.with_name(f".{target.name}.partial")
    copy_file(source, partial)
    os.replace(partial, target)


def _place_folder(source: Path, target: Path) -> None:
    partial = target.with_name(f".{target.name}.partial")
    for name in _names(source):
        copy_file(source / name, partial / name)
    os.rename(partial, target)


def _same(source: Path, target: Path) -> bool:
    """Whether target holds exactly the files of source, with the same content."""
    return (
        target.is_dir()
        and _names(target) == _names(source)
        and all(digest_file(source / name) == digest_file(target / name) for name in _names(source))
    )


def _names(folder: Path) -> set[str]:
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    return found - {RESULT_FILE}
