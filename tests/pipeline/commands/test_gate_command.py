"""`espalier gate` as CI calls it: its options, and what it writes, on a finished run and one that is worse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from devices.bundle import MANIFEST
from exporters.archive import write_archive
from pipeline.cli import main
from pipeline.commands.gate import NAMES
from tests.pipeline.attest.resealed import change_json, reseal


@pytest.fixture(scope="module")
def worse(drilled: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evidence of that run made worse: every answer wrong, half as fast, half as large again."""
    folder = tmp_path_factory.mktemp("worse") / "evidence"
    shutil.copytree(drilled[1] / "evidence", folder)
    shipped = json.loads((folder / MANIFEST).read_text())["engine"]

    def all_wrong(replay: Any) -> None:
        replay["correct"][shipped] = {name: "0" * len(row) for name, row in replay["correct"][shipped].items()}

    def slower(report: Any) -> None:
        for row in report["speedups"]:
            if row["engine"] == shipped:
                row.update({key: row[key] / 2 for key in ("value", "low", "high")})

    def larger(manifest: Any) -> None:
        manifest["metrics"]["size_bytes"] = 3 * manifest["metrics"]["size_bytes"] // 2

    change_json(folder / "results" / "replay.json", all_wrong)
    change_json(folder / "report.json", slower)
    change_json(folder / MANIFEST, larger)
    reseal(folder)
    return folder


def judged(run: Path, baseline: Path, folder: Path, *options: str) -> tuple[int, dict[str, str]]:
    """Exit code, and what became of each figure, from the JSON that was written."""
    written = folder / "gate.json"
    words = ["gate", str(run), "--baseline", str(baseline), "--allow-unsigned", "--json", str(written), *options]
    code = main(words)
    found = json.loads(written.read_text())
    assert found["format"] == "espalier-gate/1"
    assert found["passed"] == (code == 0)
    assert found["compared"]
    assert [budget["met"] for budget in found["budgets"]] == [True, True]
    return code, {row["name"]: row["outcome"] for row in found["regressions"]}


def test_what_got_worse_is_refused_and_told_in_json(
    drilled: tuple[Path, Path], worse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, outcomes = judged(worse, drilled[1], tmp_path)
    assert code == 10
    assert list(outcomes) == list(NAMES)
    assert set(outcomes.values()) == {"regressed"}
    assert capsys.readouterr().out.count("regressed") == len(NAMES)
    # Against itself nothing got worse.
    code, outcomes = judged(drilled[1], drilled[1], tmp_path)
    assert (code, set(outcomes.values())) == (0, {"held"})


def test_an_archive_came_from_elsewhere_and_has_to_be_trusted(
    drilled: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of this machine need not be signed yet; what was fetched must be, or be named."""
    archive = tmp_path / "drill-1.evidence.tar.gz"
    write_archive(drilled[1] / "evidence", archive, "drill-1")
    assert main(["gate", str(archive)]) == 7
    assert f"{archive}: is not signed" in capsys.readouterr().err
    assert main(["gate", str(archive), "--allow-unsigned"]) == 0
    assert main(["gate", str(drilled[1])]) == 0


@pytest.mark.parametrize(
    ("name", "option", "enough", "too_little"),
    [
        ("accuracy", "--max-accuracy-drop", "100", "0.01"),
        ("robust_accuracy", "--max-robust-accuracy-drop", "100", "0.01"),
        ("speedup", "--max-slowdown", "90", "5"),
        ("size", "--max-growth", "60", "40"),
    ],
)
def test_as_much_as_is_allowed_may_be_lost_of_one_figure(
    drilled: tuple[Path, Path], worse: Path, tmp_path: Path, name: str, option: str, enough: str, too_little: str
) -> None:
    """Of that one alone: the others regress as before, or are taken by name."""
    code, outcomes = judged(worse, drilled[1], tmp_path, option, enough)
    assert code == 10
    assert outcomes == {other: "held" if other == name else "regressed" for other in NAMES}
    accepted = [word for other in NAMES if other != name for word in ("--accept", other)]
    code, outcomes = judged(worse, drilled[1], tmp_path, option, enough, *accepted)
    assert code == 0
    assert outcomes == {other: "held" if other == name else "accepted" for other in NAMES}
    assert judged(worse, drilled[1], tmp_path, option, too_little, *accepted)[0] == 10


@pytest.mark.parametrize("words", [["--accept", "latency"], ["--max-growth", "-1"], ["--max-slowdown", "inf"]])
def test_what_cannot_be_allowed_is_a_mistake_of_the_command_line(drilled: tuple[Path, Path], words: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["gate", str(drilled[1]), *words])
