"""The folder of a run: what the user looks at. Copies from the store, replaced as a whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from devices.errors import BundleError
from devices.files import digest_file, read_json, storage_errors, write_json
from exporters.package import copy_file
from pipeline.chain import Outcome
from pipeline.store import Stored
from pipeline.work import Work

RUN_FILE = "run.json"
_FORMAT = "espalier-run/1"
_RESULT = "result.json"


def publish(work: Work, outcome: Outcome, out: Path) -> None:
    """Bring the run folder up to date: report, evidence, deploy if the gate passed, and which results they are."""
    results = outcome.results
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for name in ("report.html", "report.json"):
            _replace_file(results["report"].folder / name, out / name)
        _replace_folder(results["evidence"].folder, out / "evidence")
        if "deploy" in results:
            _replace_folder(results["deploy"].folder, out / "deploy")
        elif (out / "deploy").exists():
            # A bundle of an earlier run must not pass for this one, which was refused.
            shutil.rmtree(out / "deploy")
    write_json(out / RUN_FILE, _index(work, results))


def read_run(folder: Path) -> dict[str, Any]:
    """`report.json` of a run folder. Raises `BundleError` when it is no run folder or damaged."""
    if not (folder / RUN_FILE).is_file():
        raise BundleError(str(folder), "is not the folder of a finished run", "Give the --out folder of `espalier run`")
    report = read_json(folder / "report.json", BundleError)
    if not isinstance(report, dict) or report.get("format") != "espalier-report/1":
        raise BundleError(str(folder / "report.json"), "is not a report of this version", "Run the recipe again")
    return report


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


def _replace_file(source: Path, target: Path) -> None:
    if not target.is_file() or digest_file(source) != digest_file(target):
        partial = target.with_name(f".{target.name}.partial")
        copy_file(source, partial)
        os.replace(partial, target)


def _replace_folder(source: Path, target: Path) -> None:
    if _same(source, target):
        return
    partial = target.with_name(f".{target.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    for path in sorted(source.rglob("*")):
        if path.is_file() and path.relative_to(source).as_posix() != _RESULT:
            copy_file(path, partial / path.relative_to(source))
    if target.exists():
        shutil.rmtree(target)
    os.rename(partial, target)


def _same(source: Path, target: Path) -> bool:
    """Whether target holds exactly the files of source, with the same content."""

    def names(folder: Path) -> set[str]:
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}

    wanted = names(source) - {_RESULT}
    return (
        target.is_dir()
        and names(target) == wanted
        and all(digest_file(source / name) == digest_file(target / name) for name in wanted)
    )
