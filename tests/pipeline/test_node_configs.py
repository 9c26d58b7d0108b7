"""What decides a step's result is in its config, or another run would take a result that is not its own."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from devices.detect import detect_host
from devices.profile import Profile, load_profile
from pipeline.nodes import chain_of
from pipeline.recipe import read_recipe
from pipeline.work import Work
from tests.drill import DRILL

MEASURED = ("prune={target_latency_ms=1.0}",)
SEARCHED = ("prune={target_macs=0.6}", "search.objectives=['accuracy', 'latency_ms']")


def configs(profile: Profile, *overrides: str) -> dict[str, dict[str, Any]]:
    work = Work(read_recipe(DRILL, overrides), profile, detect_host(), "espalier run")
    return {node.name: node.config for node in chain_of(work, {}, {}, {})}


def with_engine(profile: Profile, **changes: Any) -> Profile:
    return replace(profile, engine=replace(profile.engine, **changes))


@pytest.mark.parametrize(("node", "recipe"), [("pruned", MEASURED), ("search", SEARCHED)])
def test_milliseconds_are_of_one_opset_one_session_and_one_warmup(node: str, recipe: tuple[str, ...]) -> None:
    cpu = load_profile("cpu")
    before = configs(cpu, *recipe)[node]
    assert configs(cpu, *recipe)[node] == before
    spinning = replace(cpu, session=replace(cpu.session, spinning=not cpu.session.spinning))
    changed = [
        configs(cpu, *recipe, "export.opset=17"),
        configs(cpu, *recipe, "measure.warmup_s=0.5"),
        configs(with_engine(cpu, threads=cpu.engine.threads + 1), *recipe),
        configs(spinning, *recipe),
    ]
    assert all(found[node] != before for found in changed)
    # What nothing measures with.
    assert configs(cpu, *recipe, "gate.max_accuracy_drop=50.0")[node] == before


def test_another_target_searches_nothing_anew() -> None:
    """The study holds every trial, and the target picks one of them; bytes are of one precision."""
    cpu = load_profile("cpu")
    recipe = "search={trials=4, population=2}"

    def prune(keys: str, *more: str) -> dict[str, dict[str, Any]]:
        return configs(cpu, recipe, f"prune={{{keys}}}", *more)

    before = prune("target_macs=0.6")
    for keys in ("target_macs=0.4", "target_parameters=0.6", "target_size_bytes=5000"):
        after = prune(keys)
        assert after["search"] == before["search"]
        assert after["pruned"] != before["pruned"]
    named = prune("keep_ratio=0.5", "search.choose='trial-1'")
    assert named["search"] == before["search"]
    for keys in ("ignore=['stem.*']", "min_channels=2", "criterion='l1'", "kinds=['channels']"):
        assert prune(f"target_macs=0.6, {keys}")["search"] != before["search"]
    assert prune("target_macs=0.6", "quantize.precision='fp32'")["search"] != before["search"]


def test_networks_that_are_trained_to_be_compared_depend_on_the_recovery() -> None:
    cpu = load_profile("cpu")
    blocks = "prune={granularity='blocks', target_macs=0.6, tune_samples=%d}"
    for samples, alike in ((0, True), (64, False)):
        before, after = (
            configs(cpu, blocks % samples, f"finetune.learning_rate={rate}")["pruned"] for rate in (0.01, 0.02)
        )
        assert (before == after) is alike


def test_the_dense_network_is_exported_before_anything_is_pruned() -> None:
    order = list(configs(load_profile("cpu"), "prune.steps=2", "prune.schedule='linear'", "finetune.epochs=2"))
    assert order[:4] == ["dense", "exported dense", "simplified dense", "pruned 1/2"]


@pytest.mark.parametrize("imported", ["", "model={onnx='net.onnx'}", "model={onnx='net.onnx', mean=[0.5], std=[0.2]}"])
def test_every_step_comes_after_what_it_needs(imported: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    text = DRILL.read_text()
    # A graph has weights.
    recipe.write_text(re.sub(r"\[train\][^\[]*", "", text) if imported else text)
    work = Work(read_recipe(recipe, [imported] if imported else []), load_profile("cpu"), detect_host(), "espalier run")
    seen: set[str] = set()
    for node in chain_of(work, {}, {}, {}):
        assert set(node.needs) <= seen, node.name
        seen.add(node.name)


def test_rebuilds_are_of_one_workspace() -> None:
    rtx = load_profile("rtx-4090")
    recipe = "measure.rebuilds=2"
    before = configs(with_engine(rtx, workspace_mb=512), recipe)["rebuilds"]
    assert configs(with_engine(rtx, workspace_mb=1024), recipe)["rebuilds"] != before


LEARNED = "prune={target_macs=0.6, criterion='learned'}"
LOOKED_AT = "threats={scan=['inversion'], references=1, edge=['membership'], edge_budget={shadows=4}}"


@pytest.mark.parametrize(
    ("node", "recipe"),
    [
        ("scores", LEARNED),
        ("scan dense", LOOKED_AT),
        ("scan dense int8", LOOKED_AT),
        ("scan references", LOOKED_AT),
        ("threat membership", LOOKED_AT),
    ],
)
def test_what_a_gpu_computes_is_no_result_of_a_cpu(node: str, recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `auto` takes a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    host = replace(detect_host(), gpus=(), gpu_details=())
    works = [
        Work(read_recipe(DRILL, [recipe]), load_profile("cpu"), here, "espalier run")
        for here in (host, replace(host, gpus=("Any GPU",)))
    ]
    on_cpu, on_gpu = ({item.name: item.config for item in chain_of(work, {}, {}, {})} for work in works)
    assert on_cpu[node] != on_gpu[node]
    assert on_cpu["exported dense"] == on_gpu["exported dense"]


def test_no_gpu_is_woken_where_none_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def woken() -> bool:
        raise AssertionError("PyTorch was asked for a GPU")

    monkeypatch.setattr(torch.cuda, "is_available", woken)
    host = replace(detect_host(), gpus=(), gpu_details=())
    work = Work(read_recipe(DRILL, [LEARNED, LOOKED_AT]), load_profile("cpu"), host, "espalier run")
    assert {"scores", "scan references", "threat membership"} <= {node.name for node in chain_of(work, {}, {}, {})}
