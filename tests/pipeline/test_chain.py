"""The chain as a user runs it: whole, again, killed, twice at once, refused."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import devices
from devices.bundle import open_bundle
from devices.trust.store import UNSIGNED
from pipeline.model import NetworkArtifact, load_network
from pipeline.prune.size import count_macs
from pipeline.recipe import read_recipe
from pipeline.store import Store
from tests import drill

KILLS = 20


def test_a_run_ends_in_a_bundle_that_answers(drilled: tuple[Path, Path]) -> None:
    """The deploy bundle classifies a frame, and evidence and report are there."""
    _, out = drilled
    classify = devices.load(out / "deploy", allow_unsigned=True)
    answer = classify(np.zeros((8, 8), dtype=np.uint8))
    assert answer.label in classify.labels
    evidence = open_bundle(out / "evidence", "evidence", UNSIGNED)
    assert {"report.html", "report.json", "sets/sets.json", "results/replay.json"} <= set(evidence.digests)
    assert evidence.manifest["verdict"]["passed"] is True


def test_the_recovered_network_comes_back_in_torch_as_the_docs_say(drilled: tuple[Path, Path]) -> None:
    store, out = drilled
    recipe = read_recipe(drill.DRILL)
    stored = json.loads((out / "run.json").read_text())["results"]["recovered"]
    network = load_network(recipe.model, NetworkArtifact(Path(store, stored["stage"], stored["key"])), seed=recipe.seed)
    report = json.loads((out / "report.json").read_text())
    (shipped,) = (engine for engine in report["engines"] if engine["name"] == report["shipped"])
    assert count_macs(network, torch.zeros(1, 1, 8, 8)) == shipped["macs"]


def test_every_border_was_proved(drilled: tuple[Path, Path]) -> None:
    """Export, simplify, quantize and build report parity, for the dense and the compressed network."""
    report = json.loads((drilled[1] / "report.json").read_text())
    borders = {row["step"] for row in report["parity"]}
    kinds = ("exported", "simplified", "quantized")
    assert borders >= {f"{kind} {form}" for kind in kinds for form in ("dense", "compressed")}
    assert borders >= {
        f"engine {form}-{precision}" for form in ("dense", "compressed") for precision in ("fp32", "int8")
    }
    floats = [row for row in report["parity"] if "int8" not in row["step"] and "quantized" not in row["step"]]
    assert all(row["sqnr_db"] > 60 for row in floats)


def test_engines_met_the_twin_and_queries(drilled: tuple[Path, Path]) -> None:
    """Sets by the gradients of the INT8 graph, Square on every engine, and a verdict of what ships beside FP32."""
    report = json.loads((drilled[1] / "report.json").read_text())
    assert report["twin"]["kept"] is True
    assert report["twin"]["twin_parity"]["agreement"] >= 0.995
    assert report["twin"]["compared_with"] == "engine"
    for engine in report["engines"]:
        assert "twin" in {row["surrogate"] for row in engine["sets"]}
        (row,) = engine["queries"]
        assert (row["method"], row["budget"], row["samples"]) == ("square", 200, 64)
        assert row["queries"] <= 200 * 64
        assert engine["robust"]["value"] <= min(row["value"], *(found["value"] for found in engine["sets"][:7]))
    (ships,) = (engine for engine in report["engines"] if engine["name"] == "compressed-int8")
    assert ships["masking"]["twin"] == "compressed-fp32"
    assert ships["masking"]["over_twin"]["low"] <= ships["masking"]["over_twin"]["high"]


def test_pruning_met_its_target(drilled: tuple[Path, Path]) -> None:
    report = json.loads((drilled[1] / "report.json").read_text())
    assert report["pruning"]["macs_after"] <= 0.6 * report["pruning"]["macs_before"]
    by_name = {engine["name"]: engine for engine in report["engines"]}
    assert by_name["compressed-fp32"]["size_bytes"] < by_name["dense-fp32"]["size_bytes"]


def test_nothing_of_this_host_is_in_what_ships(drilled: tuple[Path, Path]) -> None:
    """No folder of the host stands in the deploy bundle."""
    store, out = drilled
    folders = [str(drill.DRILL.parent), str(store), str(Path.home())]
    for path in (out / "deploy").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [folder for folder in folders if folder.encode() in content], path


def test_rerun_makes_nothing(drilled: tuple[Path, Path], tmp_path: Path) -> None:
    """With nothing changed every step comes from the store, and the run folder is the same."""
    store, out = drilled
    again = drill.run(store, tmp_path / "again")
    assert again.returncode == 0
    lines = [line for line in again.stderr.splitlines() if line.startswith("[")]
    assert len(lines) == 22
    assert all(line.endswith("stored") for line in lines)
    assert (tmp_path / "again" / "run.json").read_text() == (out / "run.json").read_text()


def test_only_what_a_change_touches_runs_again(drilled: tuple[Path, Path], tmp_path: Path) -> None:
    """Another budget judges again, and trains nothing."""
    done = drill.run(drilled[0], tmp_path / "other", "--set", "gate.max_size_bytes=90000")
    ran = {line.split("]")[1].split()[0] for line in done.stderr.splitlines() if line.endswith(" s")}
    assert ran == {"gate", "bundle", "report", "evidence"}


def test_stages_says_what_would_run(drilled: tuple[Path, Path], tmp_path: Path) -> None:
    """All stored after a run; from the changed step on after a change; nothing is made by asking."""
    arguments = ["stages", str(drill.DRILL), "--store", str(drilled[0])]
    after = drill.espalier(arguments, tmp_path)
    assert after.returncode == 0
    assert after.stdout.count("stored") == 22
    changed = drill.espalier([*arguments, "--set", "prune.target_macs=0.5"], tmp_path).stdout.splitlines()
    assert "stored" in changed[0]
    assert all("would run" in line for line in changed if "pruned" in line or "recovered" in line)
    empty = drill.espalier(["stages", str(drill.DRILL), "--store", str(tmp_path / "none")], tmp_path)
    assert empty.stdout.count("would run") == 22


def test_refused_run_ships_nothing(drilled: tuple[Path, Path], tmp_path: Path) -> None:
    """A missed budget: exit code 10, the report is there, and a deploy bundle of an earlier run is gone."""
    store, out = drilled[0], tmp_path / "run"
    assert drill.run(store, out).returncode == 0
    assert (out / "deploy").is_dir()
    refused = drill.run(store, out, "--set", "gate.max_size_bytes=10")
    assert refused.returncode == 10
    assert "MISSED" in refused.stdout
    assert "REFUSED" in refused.stdout
    assert not (out / "deploy").exists()
    assert json.loads((out / "report.json").read_text())["verdict"]["passed"] is False


def test_without_attacks_robustness_is_not_proven(drilled: tuple[Path, Path], tmp_path: Path) -> None:
    """A budget on robustness refuses when nothing was attacked."""
    done = drill.run(
        drilled[0], tmp_path / "run", "--set", "robustness.attacks=[]", "--set", "gate.min_robust_accuracy=1"
    )
    assert done.returncode == 10
    assert "not proven" in done.stdout


def test_same_bits_in_another_folder(drilled: tuple[Path, Path], tmp_path: Path) -> None:
    """Recipe, code and store elsewhere: equal digests of everything that holds no timing."""
    shutil.copytree(drill.DRILL.parent, tmp_path / "elsewhere")
    out = tmp_path / "run"
    done = drill.run(tmp_path / "store", out, recipe=tmp_path / "elsewhere" / "drill.toml")
    assert done.returncode == 0, done.stderr
    assert drill.digests(out) == drill.digests(drilled[1])


def test_damaged_result_is_made_again(drilled: tuple[Path, Path], tmp_path: Path) -> None:
    """A changed byte in the store is noticed: that step runs again, and the outcome is the same."""
    store = tmp_path / "store"
    shutil.copytree(drilled[0], store)
    # By its key: other tests keep results in the same store.
    key = json.loads((drilled[1] / "run.json").read_text())["results"]["pruned"]["key"]
    weights = store / "prune" / key / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = drill.run(store, tmp_path / "run")
    assert done.returncode == 0
    ran = [line for line in done.stderr.splitlines() if line.endswith(" s")]
    assert len(ran) == 1
    assert "prune" in ran[0]
    assert drill.digests(tmp_path / "run") == drill.digests(drilled[1])


def test_kill_at_any_moment(drilled: tuple[Path, Path], tmp_path: Path) -> None:
    """`kill -9` at random moments all over the chain: what is stored is whole, and the next run ends the same."""
    moments = random.Random(20)
    store, out = tmp_path / "store", tmp_path / "run"
    results = json.loads((drilled[1] / "run.json").read_text())["results"]
    order = [line.split("]")[1].split() for line in drill.run(drilled[0], tmp_path / "names").stderr.splitlines()]
    names = [" ".join(words[1:-1]) for words in order if words and words[-1] == "stored"]
    assert set(names) == set(results)
    killed_in: set[str] = set()
    for _ in range(KILLS):
        first = moments.randrange(len(names))
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(drilled[0], store)
        left_s = 0.0
        for name in names[first:]:
            result = results[name]
            left_s += json.loads((store / result["stage"] / result["key"] / "result.json").read_text())["seconds"]
            shutil.rmtree(store / result["stage"] / result["key"])
        with open(tmp_path / "said", "w") as said:
            process = drill.start(store, out, stderr=said)
            # One in four while it starts; else from its first line on, however long a busy machine takes to that.
            if first > 0 and moments.random() > 0.25:
                while (tmp_path / "said").stat().st_size == 0 and process.poll() is None:
                    time.sleep(0.01)
            time.sleep(moments.uniform(0, min(left_s, 6.0) + 0.5))
            process.kill()
            process.wait()
        begun = len([line for line in (tmp_path / "said").read_text().splitlines() if line.startswith("[")])
        killed_in.add(names[begun] if begun < len(names) else "published")
        for name, result in results.items():
            stored = Store(store).find(result["stage"], result["key"])
            if stored and name not in drill.TIMED:
                assert stored.digest == result["digest"], name
            if stored is None and (store / result["stage"] / result["key"]).exists():
                pytest.fail(f"{name} was left half written")
    # The moments were spread over the chain.
    assert len(killed_in) >= 4, killed_in
    done = drill.run(store, out)
    assert done.returncode == 0, done.stderr
    assert drill.digests(out) == drill.digests(drilled[1])
    open_bundle(out / "deploy", "deploy", UNSIGNED)
    open_bundle(out / "evidence", "evidence", UNSIGNED)


def test_two_runs_at_once(drilled: tuple[Path, Path], tmp_path: Path) -> None:
    """Two runs on one store both end well, and neither makes what the other makes."""
    store = tmp_path / "store"
    logs = [tmp_path / f"said-{number}" for number in range(2)]
    with logs[0].open("w") as first, logs[1].open("w") as second:
        both = [drill.start(store, tmp_path / f"run-{number}", stderr=(first, second)[number]) for number in range(2)]
        assert [process.wait() for process in both] == [0, 0], [log.read_text() for log in logs]
    assert any("another run is making this" in log.read_text() for log in logs)
    for number in range(2):
        assert drill.digests(tmp_path / f"run-{number}") == drill.digests(drilled[1])
    assert len(list((store / "train").iterdir())) == 1


def test_disk_full_is_said_and_the_next_run_goes_on(drilled: tuple[Path, Path], tmp_path: Path) -> None:
    """On a real full file system: exit code 9, one line; with space again the run ends as if nothing had been."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "espalier-test", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        full = drill.run(disk / "store", tmp_path / "run")
        assert full.returncode == 9, full.stderr
        assert "the disk is full" in full.stderr.splitlines()[-1]
        assert "Traceback" not in full.stderr
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        done = drill.run(disk / "store", tmp_path / "run")
        assert done.returncode == 0, done.stderr
        assert "stored" in done.stderr
        assert drill.digests(tmp_path / "run") == drill.digests(drilled[1])
    finally:
        subprocess.run(["umount", str(disk)], check=True)
