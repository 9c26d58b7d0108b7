"""`espalier scan` and `espalier defend`: from a recipe to findings and to a network that the chain takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devices.errors import EXIT_CODES
from pipeline.cli import main
from pipeline.commands.threats import _defence_lines, _use_line
from pipeline.gate import judge
from pipeline.recipe import GateConfig, read_recipe
from pipeline.threats.scan.findings import verdict_of
from tests.pipeline.commands.threats_parts import QUICK, RECIPE


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a recipe, and a store that fills."""
    folder = tmp_path_factory.mktemp("threats")
    (folder / "tiny.toml").write_text(RECIPE)
    return folder


def call(base: Path, *arguments: str) -> int:
    return main([*arguments, "--store", str(base / "store")])


def test_a_scan_looks_at_every_network_and_at_int8(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = call(base, "scan", str(base / "tiny.toml"), "--json", str(base / "scan.json"))
    found = json.loads((base / "scan.json").read_text())["findings"]
    assert code == (11 if any(finding["sign"] for finding in found) else 0)
    by_network: dict[str, list[str]] = {}
    for finding in found:
        by_network.setdefault(finding["network"], []).append(finding["method"])
    assert by_network == {
        "dense": ["inversion", "warping", "sensitivity", "clustering"],
        "dense int8": ["inversion", "warping", "sensitivity", "stages", "clustering"],
        "pruned": ["inversion", "warping", "sensitivity", "stages", "clustering"],
        "pruned int8": ["inversion", "warping", "sensitivity", "stages", "clustering"],
    }
    said = capsys.readouterr().out
    assert all(verdict_of(finding) in said for finding in found)
    assert next(f for f in found if f["method"] == "stages" and f["network"] == "pruned")["detail"]["before"] == "dense"
    # One reference is too few to judge sensitivity by.
    assert all(finding["threshold"] is None for finding in found if finding["method"] == "sensitivity")


def test_a_recipe_that_names_no_method_keeps_the_rest_of_its_section(base: Path) -> None:
    text = RECIPE.replace(
        'scan = ["inversion", "warping", "sensitivity", "stages", "clustering"]', "false_alarm_rate = 0.2"
    )
    (base / "unnamed.toml").write_text(text)
    call(base, "scan", str(base / "unnamed.toml"), "--json", str(base / "unnamed.json"))
    found = json.loads((base / "unnamed.json").read_text())["findings"]
    assert {finding["method"] for finding in found} == {"inversion", "stages"}
    assert {finding["false_alarm_rate"] for finding in found} - {None} == {0.2}


def trained(base: Path) -> set[str]:
    """Networks that the store holds."""
    return {path.parent.name for path in (base / "store").glob("*/*/weights.safetensors")}


def test_a_run_that_scanned_nothing_is_scanned_by_its_own_recipe(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By methods of the command line, and with the networks that the store holds."""
    recipe, _, _ = RECIPE.partition("[threats]")
    (base / "quiet.toml").write_text(recipe + QUICK)
    run = base / "quiet"
    assert call(base, "run", str(base / "quiet.toml"), "--out", str(run)) == 0
    made = trained(base)
    few = ["--set", "threats.inversion_steps=2", "--set", "threats.samples=8", "--set", "threats.references=0"]
    assert call(base, "scan", str(run), *few) == 7
    assert "--allow-unsigned" in capsys.readouterr().err
    assert call(base, "scan", str(run), "--allow-unsigned", *few, "--json", str(base / "quiet.json")) in (0, 11)
    found = json.loads((base / "quiet.json").read_text())["findings"]
    assert {(finding["network"], finding["method"]) for finding in found} == {
        ("dense", "inversion"),
        *((name, method) for name in ("dense int8", "pruned", "pruned int8") for method in ("inversion", "stages")),
    }
    assert trained(base) == made
    # Evidence holds every key, and its references of 0 are not those of somebody who asked for none.
    assert call(base, "scan", str(run), "--allow-unsigned", *few[:4], "--json", str(base / "quiet.json")) in (0, 11)
    found = json.loads((base / "quiet.json").read_text())["findings"]
    assert {row["detail"]["references"] for row in found if row["method"] == "inversion"} == {4}
    other = ["--set", "seed=1", "--set", "prune.target_macs=0.6"]
    assert call(base, "scan", str(run), "--allow-unsigned", *few, *other) == 7
    assert "was made with another 'dense'" in capsys.readouterr().err


def test_what_a_run_found_is_shown_to_whom_its_signer_satisfies_or_looked_for_anew(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, _, _ = RECIPE.partition("[threats]")
    threats = "[threats]\nscan = ['inversion']\nsamples = 8\ninversion_steps = 2\n"
    (base / "scanned.toml").write_text(recipe + threats + "[quantize]\nprecision = 'fp32'" + QUICK)
    run, keys = base / "scanned", base / "keys"
    assert call(base, "run", str(base / "scanned.toml"), "--out", str(run)) == 0
    for name in ("mine", "other"):
        assert main(["keygen", str(keys / name)]) == 0
    show = ["scan", str(run), "--json", str(base / "shown.json")]
    assert call(base, *show) in (0, 11)
    own = json.loads((base / "shown.json").read_text())
    # Who names a signer does not take what nobody signed.
    assert call(base, *show, "--key", str(keys / "mine.pub")) == 7
    assert main(["sign", str(run), "--key", str(keys / "mine.key")]) == 0
    assert call(base, *show, "--key", str(keys / "mine.pub")) in (0, 11)
    capsys.readouterr()
    assert call(base, *show, "--key", str(keys / "other.pub")) == 7
    monkeypatch.setenv("ESPALIER_TRUST", str(keys / "other.trust.toml"))
    assert call(base, *show) == 7
    told = capsys.readouterr()
    assert "scanned/evidence" in told.err
    assert not told.out
    monkeypatch.setenv("ESPALIER_TRUST", str(keys / "mine.trust.toml"))
    assert call(base, *show) in (0, 11)
    assert json.loads((base / "shown.json").read_text()) == own
    # What says how to scan is not left unused: the run's networks are looked at again.
    made = trained(base)
    assert call(base, *show, "--set", "threats.false_alarm_rate=0.2") in (0, 11)
    again = json.loads((base / "shown.json").read_text())["findings"]
    assert {finding["network"] for finding in again} == {finding["network"] for finding in own["findings"]}
    assert {finding["false_alarm_rate"] for finding in again} - {None} == {0.2}
    assert trained(base) == made


def test_a_network_near_chance_is_told_and_not_judged(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change = ["--set", "train.learning_rate=1e-9", "--set", "threats.references=0"]
    assert call(base, "scan", str(base / "tiny.toml"), *change, "--json", str(base / "chance.json")) == 0
    found = json.loads((base / "chance.json").read_text())["findings"]
    assert all(finding["threshold"] is None and not finding["sign"] for finding in found)
    assert "near chance" in capsys.readouterr().out


def test_defend_writes_a_network_that_the_chain_takes(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = base / "defended"
    arguments = ["defend", str(base / "tiny.toml"), "--method", "fine-pruning", "--clean-samples", "50"]
    told = [*arguments, "--trigger", "sinusoidal", "--target", "4", "--max-drop", "60", "--out", str(out)]
    assert call(base, *told) == 0
    assert {path.name for path in out.iterdir()} == {"weights.safetensors", "plan.json", "defence.json"}
    content = json.loads((out / "defence.json").read_text())
    assert content["evaluation"]["samples"] == 310
    assert content["evaluation"]["attack_after"]["low"] <= content["evaluation"]["attack_after"]["value"]
    assert content["removal"]["neurons_removed"] > 0
    assert "nothing was chosen by it" in capsys.readouterr().out
    weights = ["--set", f"model.weights={out}", "--set", "threats.scan=['sensitivity']"]
    text = "\n".join(line for line in RECIPE.replace("[train]\nepochs = 3\n", "").splitlines())
    (base / "cleaned.toml").write_text(text)
    assert call(base, "scan", str(base / "cleaned.toml"), *weights) == 0
    assert "pruned" in capsys.readouterr().out
    quick = [
        "measure={duration_s=0.2, warmup_s=0.02, processes=1}",
        "robustness={attacks=['fgsm'], queries=[], samples=48}",
    ]
    settings = [word for value in quick for word in ("--set", value)]
    assert call(base, "run", str(base / "cleaned.toml"), *weights, *settings, "--out", str(base / "shipped")) == 0
    assert (base / "shipped" / "deploy" / "engine" / "engine.json").is_file()
    # A second time nothing is overwritten.
    assert call(base, *told) == 9


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--clean-samples", "9"], 5, "--clean-samples: 9 clean samples"),
        (["--clean-samples", "340"], 5, "330 at most"),
        (["--clean-samples", "50", "--trigger", "patch"], 5, "--target belong together"),
        (["--clean-samples", "50", "--trigger", "patch", "--target", "eleven"], 5, "there is no class 'eleven'"),
        (["--clean-samples", "50", "--trigger", "square", "--target", "4"], 5, "'square' is no trigger"),
        (["--clean-samples", "50", "--trigger", "own.npz", "--target", "4"], 5, "'mask' has shape (3, 3)"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(
    base: Path,
    more: list[str],
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(base)
    np.savez("own.npz", mask=np.ones((3, 3)), pattern=np.ones((3, 3)))
    out = base / "nothing"
    # With another seed, a network that is in no store.
    given = ["defend", "tiny.toml", "--set", "seed=77", "--method", "unlearning", *more, "--out", str(out)]
    assert call(base, *given) == code
    told = capsys.readouterr()
    assert words in told.err
    assert not out.exists()
    # Before anything is trained.
    assert "train" not in told.err + told.out


@pytest.mark.parametrize(
    ("family", "words"), [("patch", "a patch of 3.25 pixels that turns"), ("warp", "a warp by 3.25 pixels that turns")]
)
def test_what_unlearning_found_is_told(family: str, words: str) -> None:
    removal = {"method": "unlearning", "trigger": family, "class": 1, "trigger_size_px": 3.2512, "trigger_samples": 50}
    share = {"value": 0.5, "low": 0.25, "high": 0.75}
    told = {"clean_before": share, "clean_after": share, "samples": 310, "attack_before": None}
    first, second = _defence_lines(removal, told, ("cat", "dog"))
    assert first == f"unlearning: against {words} images into class dog, found on 50 images"
    assert second == "clean accuracy 50.0 % (25.0 to 75.0) -> 50.0 % (25.0 to 75.0), 310 other images"


def test_a_recipe_that_trains_is_told_to_leave_it_out(base: Path) -> None:
    assert _use_line(read_recipe(base / "tiny.toml"), Path("out")) == (
        "written: out. Use it with --set model.weights=out and a copy of the recipe without [train]"
    )


@pytest.mark.parametrize("more", [[], ["--set", "threats.references=0"]])
def test_a_task_without_classes_is_refused_before_anything_is_trained(
    base: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Path(__file__).parents[3] / "recipes" / "digits-segmentation.toml"
    made = trained(base)
    assert call(base, "scan", str(recipe), *more) == 3
    assert "task.kind: is 'segmentation'. A scan knows classification alone" in capsys.readouterr().err
    assert trained(base) == made


@pytest.mark.parametrize(("option", "value"), [("--max-drop", "nan"), ("--max-drop", "-3"), ("--clean-samples", "-50")])
def test_a_number_that_cannot_be_is_refused_before_anything_runs(
    base: Path, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["defend", "tiny.toml", "--method", "anp", "--clean-samples", "50", "--out", str(base / "nothing")]
    with pytest.raises(SystemExit) as ended:
        call(base, *words, f"{option}={value}")
    assert ended.value.code == 2
    assert f"argument {option}: '{value}' is not a" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_refused(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(base, "scan", str(base)) == 7
    assert "not the folder of a finished run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("threats.scan=['stages']", "add 'inversion'"),
        ("threats.scan=['inversion', 'inversion']", "names a method twice"),
        ("threats.scan=['magic']", "threats.scan"),
        ("threats.false_alarm_rate=0.0", "threats.false_alarm_rate"),
    ],
)
def test_a_bad_section_is_named(base: Path, change: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(base, "scan", str(base / "tiny.toml"), "--set", change) == 3
    assert words in capsys.readouterr().err


def finding(sign: bool, threshold: float | None) -> dict[str, Any]:
    return {"sign": sign, "threshold": threshold}


@pytest.mark.parametrize(
    ("findings", "met"),
    [
        ([finding(False, 3.0), finding(False, None)], True),
        ([finding(True, 3.0), finding(False, 3.0)], False),
        # Nothing was judged, so nothing is proven.
        ([finding(False, None)], False),
        ([], False),
    ],
)
def test_the_gate_counts_signs(findings: list[dict[str, Any]], met: bool) -> None:
    figures = {"engines": {"e": {"size_bytes": 1, "latency": None}}, "speedups": []}
    verdict = judge(GateConfig(max_backdoor_signs=0), figures, None, "e", "e", [{"findings": findings}])
    assert verdict.passed == met


def test_its_exit_code_is_listed() -> None:
    assert (11, "a scan found signs of a backdoor") in EXIT_CODES
