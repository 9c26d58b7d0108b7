"""Pruning and recovery as a user asks for them: one recipe, the installed command, what comes out."""

from __future__ import annotations

import json
import math
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from exporters.onnx_export import INPUT_NAME
from exporters.sparsity import read_sparsity
from pipeline.report.pruning_view import pruning_sentences
from tests import drill

RECIPE = drill.DRILL.with_name("residual.toml")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all, so that the dense network is trained once."""
    return tmp_path_factory.mktemp("compression") / "store"


def run(
    store: Path, name: str, *settings: str, expect: tuple[int, ...] = (0,), recipe: Path = RECIPE, device: str = "cpu"
) -> tuple[str, dict[str, Any]]:
    """What the command prints, and metrics by node; none where it fails as it may."""
    out = store.parent / name
    more = ["--device", device, *(part for text in settings for part in ("--set", text))]
    done = drill.run(store, out, *more, recipe=recipe)
    assert done.returncode in expect, done.stderr + done.stdout
    if done.returncode:
        assert "Traceback" not in done.stderr
        assert sum(line.startswith("espalier: ") for line in done.stderr.splitlines()) == 1
        return done.stderr, {}
    results = json.loads((out / "run.json").read_text())["results"]
    metrics = {}
    for node, item in results.items():
        folder = store / item["stage"] / item["key"]
        metrics[node] = json.loads((folder / "result.json").read_text())["metrics"] | {"folder": str(folder)}
    return done.stdout, metrics


def test_a_schedule_goes_step_by_step_with_equal_epochs(store: Path) -> None:
    # Of finer steps than the CPU's, so that the small network has widths between.
    fine = store.parent / "fine.toml"
    cpu = (files("devices") / "profiles" / "cpu.toml").read_text(encoding="utf-8")
    fine.write_text(cpu.replace("channel_step = 16", "channel_step = 1"))
    _, metrics = run(
        store,
        "schedule",
        "finetune={epochs=3, batch_size=128, learning_rate=0.05, schedule='cosine', ema_decay=0.9}",
        "prune.schedule='polynomial'",
        "prune.steps=2",
        "prune.criterion='taylor'",
        "prune.scope='allocated'",
        "prune.criterion_samples=128",
        "distill={weight=0.5}",
        device=str(fine),
    )
    first, last = metrics["pruned 1/2"], metrics["pruned"]
    assert first["macs_before"] == last["macs_before"]
    # 1 - (1 - 1/2)^3 of the half that goes.
    assert last["macs_after"] < first["macs_after"] <= (1 - 0.875 * 0.5) * first["macs_before"]
    assert last["macs_after"] <= 0.5 * last["macs_before"]
    assert [metrics[node]["epochs_run"] for node in ("recovered 1/2", "recovered")] == [1, 2]
    widths = {group["name"]: group["width_after"] for group in first["groups"]}
    assert all(group["width_after"] <= widths[group["name"]] for group in last["groups"])
    assert last["recalibrated_layers"] == metrics["recovered"]["recalibrated_layers"] > 0
    assert metrics["recovered"]["score"]["value"] > last["score_before_recalibration"]["value"] - 0.05


def test_blocks_go_whole(store: Path) -> None:
    _, metrics = run(store, "blocks", "prune.granularity='blocks'", "prune.target_macs=0.8")
    pruned = metrics["pruned"]
    assert len(pruned["blocks"]) == 1
    gone = pruned["blocks"][0]["name"]
    assert {row["name"] for row in pruned["layers"] if row["after"] == 0} == {f"{gone}.conv1", f"{gone}.conv2"}
    assert pruned["macs_after"] <= 0.8 * pruned["macs_before"]


def test_blocks_are_compared_after_a_short_training(store: Path) -> None:
    plain, tuned = (
        run(
            store,
            f"blocks-tuned-{samples}",
            "prune.granularity='blocks_and_channels'",
            "prune.target_macs=0.8",
            "prune.criterion_samples=64",
            f"prune.tune_samples={samples}",
        )[1]
        for samples in (0, 256)
    )
    assert len(plain["pruned"]["tried"]) == len(tuned["pruned"]["tried"])
    # A network that was trained on is judged otherwise, and nothing of that training stays in what is pruned.
    damages = [[row["damage"] for row in found["pruned"]["tried"]] for found in (plain, tuned)]
    assert damages[0] != damages[1]
    before, after = (load_file(Path(tuned[node]["folder"]) / "weights.safetensors") for node in ("dense", "pruned"))
    whole = [name for name in after if name.endswith("weight") and after[name].shape == before[name].shape]
    assert any("conv" in name for name in whole)
    assert all(torch.equal(after[name], before[name]) for name in whole)


def test_blocks_and_channels_go_together(store: Path) -> None:
    _, metrics = run(
        store,
        "both",
        "prune.granularity='blocks_and_channels'",
        "prune.blocks=1",
        "prune.scope='sensitivity'",
        "prune.criterion_samples=64",
        "prune.target_macs=0.5",
    )
    pruned = metrics["pruned"]
    gone = pruned["blocks"][0]["name"]
    left = {row["name"]: (row["before"], row["after"]) for row in pruned["layers"]}
    assert {name for name, (_, after) in left.items() if after == 0} == {f"{gone}.conv1", f"{gone}.conv2"}
    assert any(0 < after < before for before, after in left.values())
    assert pruned["macs_after"] <= 0.5 * pruned["macs_before"]
    sentences = pruning_sentences({"pruning": pruned})
    assert f"the loss misses least: {gone}." in sentences
    assert "scope sensitivity." in sentences


def test_two_of_four_is_proved_on_the_graph_that_ships_and_survives_training(store: Path) -> None:
    _, metrics = run(
        store,
        "two-of-four",
        "prune={granularity='2:4'}",
        "finetune={epochs=1, batch_size=128, learning_rate=0.05, ema_decay=0.9}",
    )
    masked = metrics["exported compressed"]["two_of_four"]
    assert masked
    rows = read_sparsity(Path(metrics["simplified compressed"]["folder"]) / "model.onnx")
    assert sum(row.two_of_four for row in rows) >= len(masked)
    dense = read_sparsity(Path(metrics["simplified dense"]["folder"]) / "model.onnx")
    assert not any(row.two_of_four for row in dense)


def test_single_weights_stay_zero(store: Path) -> None:
    _, metrics = run(
        store,
        "weights",
        "prune={granularity='weights', target_sparsity=0.9, criterion='lamp'}",
        "finetune={epochs=1, batch_size=128, learning_rate=0.05}",
    )
    assert metrics["pruned"]["zeros_share"] == pytest.approx(0.9, abs=0.01)
    rows = read_sparsity(Path(metrics["simplified compressed"]["folder"]) / "model.onnx")
    weights = [(row.zeros_share, row.shape) for row in rows]
    total = sum(share * _count(shape) for share, shape in weights) / sum(_count(shape) for _, shape in weights)
    assert total == pytest.approx(0.9, abs=0.01)


def _count(shape: tuple[int, ...]) -> int:
    return math.prod(shape)


def test_milliseconds_are_measured_on_engines_and_kept(store: Path) -> None:
    # The limit is of one run and the network of a later one: where the machine is much slower or faster by then, again.
    for duration_s in (0.1, 0.11, 0.12, 0.13):
        again = ("model.args={channels=48}", f"measure.duration_s={duration_s}")
        _, metrics = run(store, "half", "prune={keep_ratio=0.5}", *again)
        engines = metrics["measurements"]["engines"]
        p50 = [engines[f"{form}-fp32"]["latency"]["p50_ms"]["value"] for form in ("dense", "compressed")]
        # Between the two, so that it can be met and is not met by the whole network.
        limit = sum(p50) / 2
        said, metrics = run(store, "ms", f"prune={{target_latency_ms={limit:.5f}}}", *again, expect=(0, 3))
        pruned = metrics.get("pruned", {"macs_before": 0, "macs_after": 0})
        assert metrics or ("prune.target_latency_ms: " in said and "cannot be met" in said)
        if pruned["macs_after"] < pruned["macs_before"]:
            break
    assert 0 < pruned["macs_after"] < pruned["macs_before"], said
    assert pruned["latency_source"] == "measured"
    assert pruned["reached"] <= limit
    rows = json.loads((Path(pruned["folder"]) / "latency.json").read_text())["rows"]
    assert len(rows) >= len(pruned["probes"]) - 1
    assert "ships" in said


@pytest.mark.parametrize(
    ("settings", "code", "says"),
    [
        (["prune.target_macs=0.0001"], 3, "prune.target_macs: 0.0001 cannot be met"),
        (["prune={target_latency_ms=0.0001}"], 3, "prune.target_latency_ms: 0.0001 cannot be met"),
        (["prune.ignore=['nothing.*']"], 3, "'nothing.*' matches no parameter"),
        (["prune={keep={'nothing.*'=0.5}}"], 3, "'nothing.*' matches no group"),
        (["prune.schedule='linear'", "prune.steps=3", "finetune={epochs=2}"], 3, "finetune.epochs: is 2"),
        (["finetune={epochs=1, learning_rate=1e30}"], 4, "training: "),
        (["distill={features=['nothing.*']}", "finetune={epochs=1}"], 3, "nothing.*"),
        (["search={trials=16, choose='trial-99'}"], 3, "trial-99"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(store: Path, settings: list[str], code: int, says: str) -> None:
    said, _ = run(store, "refused", *settings, expect=(code,))
    assert says in said


def test_a_point_of_a_search_comes_back_by_its_name(store: Path) -> None:
    _, metrics = run(store, "nearest", "search={trials=16, population=8, validation_samples=200}")
    study = json.loads((Path(metrics["search"]["folder"]) / "study.json").read_text())
    small = min(study["trials"], key=lambda trial: trial["metrics"]["macs"])
    _, again = run(
        store, "named", "search={trials=16, population=8, validation_samples=200, choose='" + small["name"] + "'}"
    )
    assert again["pruned"]["macs_after"] == small["metrics"]["macs"]
    assert again["search"]["folder"] == metrics["search"]["folder"]
    page = (store.parent / "named" / "report.html").read_text()
    assert small["name"] in page


def test_a_killed_recovery_ends_with_the_same_weights(store: Path) -> None:
    """`kill -9` in the middle of training, then the same command again."""
    settings = ["--set", "finetune={epochs=6, batch_size=32, learning_rate=0.05, ema_decay=0.9}"]
    out = store.parent / "killed"
    before = set((store / "partial").glob("finetune-*"))
    process = drill.start(store, out, *settings, recipe=RECIPE)
    deadline = time.monotonic() + 1800
    while not any(list(folder.iterdir()) for folder in set((store / "partial").glob("finetune-*")) - before):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    other = store.parent / "undisturbed-store"
    digests = []
    for place in (store, other):
        done = drill.run(place, store.parent / f"end-{place.name}", *settings, recipe=RECIPE)
        assert done.returncode == 0, done.stderr
        index = json.loads((store.parent / f"end-{place.name}" / "run.json").read_text())
        digests.append(index["results"]["recovered"]["digest"])
    assert digests[0] == digests[1]
    assert set((store / "partial").glob("finetune-*")) <= before


def test_an_onnx_file_is_the_start(store: Path, tmp_path: Path) -> None:
    """As it is without [prune], and by way of torch with it."""
    import onnx

    _, metrics = run(store, "first", "prune.target_macs=0.7")
    file = Path(metrics["exported dense"]["folder"]) / "model.onnx"
    text = RECIPE.read_text().replace('factory = "residual.py:residual"', f'onnx = "{file}"')
    text = text.replace("[train]\nepochs = 2\nbatch_size = 128\nlearning_rate = 0.1\n", "")
    recipe = tmp_path / "from_onnx.toml"
    recipe.write_text(text)
    _, pruned = run(store, "onnx", recipe=recipe)
    assert pruned["pruned"]["macs_before"] == metrics["pruned"]["macs_before"]
    assert pruned["pruned"]["macs_after"] <= 0.5 * pruned["pruned"]["macs_before"]
    scores = [item["replays"]["engines"]["dense-fp32"]["clean"]["value"] for item in (metrics, pruned)]
    assert scores[0] == scores[1]
    recipe.write_text(text.replace("[prune]\ntarget_macs = 0.5\n", ""))
    _, taken = run(store, "as-is", recipe=recipe)
    assert "dense" not in taken
    assert taken["imported dense"]["macs"] == metrics["pruned"]["macs_before"]
    graph = onnx.load(Path(taken["imported dense"]["folder"]) / "model.onnx").graph
    assert graph.input[0].name == INPUT_NAME


def test_learned_scores_are_a_step_of_their_own_and_corruptions_reach_the_gate(store: Path) -> None:
    settings = [
        "prune.criterion='learned'",
        "prune.learned.epochs=1",
        "finetune={epochs=2, batch_size=128, learning_rate=0.05, keep_best=true}",
        "robustness.corruptions=['fog', 'dead_pixels']",
        "robustness.corruption_samples=20",
        "gate.max_corruption_error_ratio=50",
    ]
    _, metrics = run(store, "learned", *settings)
    assert metrics["scores"]["scores"] > 0
    assert len(metrics["scores"]["loss_by_epoch"]) == 1
    assert metrics["pruned"]["criterion"] == "learned"
    assert len(metrics["recovered"]["validation_accuracy_by_epoch"]) == metrics["recovered"]["epochs_run"]
    engines = metrics["replays"]["engines"]
    assert all(engine["corruption"]["samples"] == 20 for engine in engines.values())
    assert engines["dense-fp32"]["corruption"]["error_ratio"]["value"] == 1
    assert [budget["name"] for budget in metrics["verdict"]["budgets"]].count("max_corruption_error_ratio") == 1
    fog = (Path(metrics["sets"]["folder"]) / "fog_3.npy").stat().st_size
    assert fog == 20 * 64 + 128
    # Another recovery learns nothing anew.
    more = [part for text in [*settings, "finetune.learning_rate=0.02"] for part in ("--set", text)]
    asked = ["stages", str(RECIPE), "--device", "cpu", "--store", str(store), *more]
    lines = drill.espalier(asked, cwd=store.parent).stdout.splitlines()
    assert any("scores" in line and " stored " in line for line in lines)
    assert any("recovered" in line and line.endswith("would run") for line in lines)
