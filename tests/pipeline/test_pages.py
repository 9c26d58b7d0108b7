"""`espalier compare` and `espalier index`: figures, pairs, links, and runs that are damaged or hostile."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devices.bundle import write_manifest
from devices.errors import EXIT_OK, EXIT_USAGE, BundleError, StorageError
from devices.statistics import paired_difference
from pipeline.cli import main
from pipeline.pages.compare import compare_page
from pipeline.pages.compare_view import changed_keys, latency_sentence
from pipeline.pages.index import index_page
from pipeline.pages.pairs import clean_pair, read_evidence, robust_pair
from pipeline.pages.run_line import labels_of, link, run_line
from pipeline.report.figures import TIMES, points
from tests.pipeline.example_report import HOSTILE, example_report
from tests.pipeline.example_run import IMAGES, grown_report, write_run


def _words(page: str) -> str:
    text = re.sub(r"<[^>]+>", " ", page).replace("\N{NO-BREAK SPACE}", " ").replace("&nbsp;", " ")
    return " ".join(text.split())


def _evidence(folder: Path, report: dict[str, Any], **made: int) -> Any:
    write_run(folder, report, **made)
    return read_evidence(folder, report)


def test_pairs_are_image_by_image_on_the_same_images(tmp_path: Path) -> None:
    report = example_report()
    before, after = (_evidence(tmp_path / str(wrong), report, wrong=wrong) for wrong in (5, 25))
    right = [np.arange(IMAGES) >= wrong for wrong in (5, 25, 10, 50)]
    clean, robust = clean_pair(before, after), robust_pair(before, after)
    assert clean.difference == paired_difference(right[0], right[1])
    assert robust.difference == paired_difference(right[2], right[3])
    assert clean.why == "on the same 200 images"
    assert robust.why == "on the same 200 images, under the same adversarial images"
    # Swapped, the difference is the other way.
    assert clean_pair(after, before).difference == paired_difference(right[1], right[0])


def test_what_was_not_judged_alike_is_not_paired(tmp_path: Path) -> None:
    report = example_report()
    first = _evidence(tmp_path / "first", report)
    others = _evidence(tmp_path / "others", report, images_seed=1)
    assert clean_pair(first, others).difference is None
    assert robust_pair(first, others).why == "the runs were judged on different images"
    attacked = robust_pair(first, _evidence(tmp_path / "attacked", report, attack_seed=1))
    assert attacked.difference is not None
    assert "made against the networks of its own run" in attacked.why


def test_the_comparison_has_every_figure_and_opens_the_reports(tmp_path: Path) -> None:
    for name, wrong in (("before", 5), ("after run", 25)):
        recipe = grown_report()["recipe"] | {"seed": wrong}
        write_run(tmp_path / "runs" / name, grown_report(recipe=recipe), wrong=wrong)
    runs, out = [tmp_path / "runs" / name for name in ("before", "after run")], tmp_path / "pages" / "compare.html"
    assert main(["compare", *map(str, runs), "--out", str(out)]) == EXIT_OK
    page = out.read_text(encoding="utf-8")
    hrefs = re.findall(r'href="([^"#]+)"', page)
    assert hrefs.count("../runs/after%20run/report.html") == 3
    assert all((out.parent / href.replace("%20", " ")).is_file() for href in hrefs)
    found = paired_difference(np.arange(IMAGES) >= 5, np.arange(IMAGES) >= 25)
    assert found.high < 0
    said = f"-10.00 points 95 %: {points(found.low)} to {points(found.high)}; lower, on the same 200 images"
    for text in (said, "36.0 kB", "0.750 ms 0.650 to 0.850", "seed 5 25", "no ratio of them is claimed"):
        assert text in _words(page)
    assert len(page.encode()) < 1_500_000
    # Ours is written again; what is not ours is left alone.
    assert main(["compare", *map(str, runs), "--out", str(out)]) == EXIT_OK
    kept = (runs[0] / "report.html").read_bytes()
    assert main(["compare", *map(str, runs), "--out", str(runs[0] / "report.html")]) == StorageError.exit_code
    assert (runs[0] / "report.html").read_bytes() == kept


def test_a_page_has_the_name_of_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["compare", "runs/a", "runs/b", "--out", str(tmp_path / "page.txt")])
    assert ended.value.code == EXIT_USAGE
    assert "page.txt' is no name of a page: it ends with .html" in capsys.readouterr().err


def test_runs_of_two_tasks_are_not_compared(tmp_path: Path) -> None:
    write_run(tmp_path / "a", example_report())
    write_run(tmp_path / "b", example_report() | {"task": "segmentation", "images": []})
    with pytest.raises(BundleError, match=r"is of segmentation, and .* of classification"):
        compare_page([tmp_path / "a", tmp_path / "b"], tmp_path / "page.html")


def test_a_ratio_of_latencies_is_offered_by_a_command_on_one_device_alone(tmp_path: Path) -> None:
    write_run(tmp_path / "a", example_report())
    run = run_line(example_report(), tmp_path / "a", "a", tmp_path / "page.html")
    other = run_line(
        example_report() | {"device": {"name": "gpu", "title": "a GPU"}}, tmp_path / "a", "b", tmp_path / "page.html"
    )
    command = "espalier bench b/deploy --against a/deploy"
    assert command in latency_sentence([run, run], ["a", "b"])
    assert command not in latency_sentence([run, other], ["a", "b"])


def test_one_recipe_on_two_devices_stands_side_by_side_without_a_ratio_of_latencies(tmp_path: Path) -> None:
    gpu = example_report() | {"device": {"name": "rtx-4090", "title": "a GPU"}}
    for engine in gpu["engines"]:
        engine["latency"]["p50_ms"] = {"value": 0.25, "low": 0.24, "high": 0.26}
    write_run(tmp_path / "here", example_report())
    write_run(tmp_path / "there", gpu)
    page = _words(compare_page([tmp_path / "here", tmp_path / "there"], tmp_path / "page.html"))
    engine = "PASSED compressed, INT8 9,000,000 36.0 kB"
    assert f"here cpu {engine} 0.750 ms 0.650 to 0.850" in page
    assert f"there rtx-4090 {engine} 0.250 ms 0.240 to 0.260" in page
    said = "These latencies are of different devices: a difference is the machines' as much as the engines'"
    assert f"{said}, and no ratio of them is claimed." in page.replace("&#39;", "'")
    # Neither a command that would give one, nor the ratio itself: 0.75 ms to 0.25 ms.
    assert "espalier bench" not in page
    assert f"3.00 {TIMES}" not in page
    # Accuracy is of the same images on any device.
    assert "there 0.00 points 95 %" in page
    assert "Nothing: the runs have one recipe." in page


def test_keys_that_differ_are_found_in_every_depth() -> None:
    rows = changed_keys([{"a": 1, "b": {"c": [1], "d": None}}, {"a": 1, "b": {"c": [2]}}])
    assert [(row.key, row.values) for row in rows] == [("b.c", ("[1]", "[2]"))]


def test_labels_and_links_hold_for_any_name(tmp_path: Path) -> None:
    assert labels_of([Path("x/run"), Path("y/run"), Path("z")]) == ["x/run", "y/run", "z"]
    odd = tmp_path / os.fsdecode(b"a b#\xff?")
    assert link(odd / "report.html", tmp_path / "index.html") == "a%20b%23%FF%3F/report.html"
    assert labels_of([odd]) == ["a b#\\udcff?"]


def test_the_index_lists_whole_runs_and_says_what_is_wrong_with_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("good", "torn", "cut", "old", "deep/er"):
        write_run(tmp_path / name, example_report())
    (tmp_path / "torn" / "report.json").write_bytes(b"\xff{")
    (tmp_path / "cut" / "run.json").unlink()
    (tmp_path / "cut" / ".espalier").touch()
    lacking = {"format": "espalier-report/1", "verdict": {"passed": False}, "name": "old"}
    write_run(tmp_path / "less", example_report())
    (tmp_path / "old" / "evidence" / "manifest.json").unlink()
    for place in ("", "evidence/"):
        (tmp_path / f"less/{place}report.json").write_text(str(lacking).replace("'", '"').replace("False", "false"))
    (tmp_path / "less" / "evidence" / "manifest.json").unlink()
    write_manifest(tmp_path / "less" / "evidence", "evidence", {})
    (tmp_path / "notes").mkdir()
    assert main(["index", str(tmp_path)]) == EXIT_OK
    assert "(2 runs, and 4 damaged or not ended)" in capsys.readouterr().out
    _, runs, damaged = index_page(tmp_path)
    assert [run.label for run in runs] == ["deep/er", "good"]
    assert [run.label for run in damaged] == ["cut", "less", "old", "torn"]
    assert "is not the folder of a finished run" in damaged[0].why
    assert "does not hold a whole report" in damaged[1].why
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'href="deep/er/report.html"' in page
    assert "notes" not in page


def test_an_index_overwrites_nobody_elses_page_and_wants_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a", example_report())
    (tmp_path / "runs" / "index.html").write_text("mine")
    assert main(["index", str(tmp_path / "runs")]) == StorageError.exit_code
    assert (tmp_path / "runs" / "index.html").read_text() == "mine"
    (tmp_path / "none").mkdir()
    assert main(["index", str(tmp_path / "none")]) == BundleError.exit_code
    assert main(["index", str(tmp_path / "nowhere")]) == BundleError.exit_code
    assert list((tmp_path / "none").iterdir()) == []


def test_hostile_names_are_text_on_both_pages(tmp_path: Path) -> None:
    report = grown_report(name=HOSTILE, device={"name": HOSTILE, "title": HOSTILE})
    write_run(tmp_path / "half a letter", grown_report(name="\ud800"))
    assert main(["index", str(tmp_path)]) == EXIT_OK
    assert main(["report", str(tmp_path / "half a letter")]) == EXIT_OK
    report["recipe"] = report["recipe"] | {HOSTILE: HOSTILE}
    for engine in report["engines"]:
        engine["title"] = HOSTILE
    name = HOSTILE.replace("/", "_")[:60]
    write_run(tmp_path / name, report)
    write_run(tmp_path / "plain", example_report())
    (tmp_path / f"{name}-torn").mkdir()
    (tmp_path / f"{name}-torn" / ".espalier").touch()
    index, _, _ = index_page(tmp_path)
    for page in (index, compare_page([tmp_path / name, tmp_path / "plain"], tmp_path / "page.html")):
        assert page.count("<script") == page.count("</script>") == 1
        assert "<img" not in page
        assert "alert(1)" in page
