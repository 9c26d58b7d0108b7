"""A run made again from its evidence: equal bit for bit but for timings, and what differs is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from devices.bundle import open_bundle
from devices.errors import BundleError, RecipeError
from devices.trust.store import UNSIGNED
from pipeline.attest.read import Step, read_steps
from pipeline.attest.repeat import compare_steps, recorded_recipe
from pipeline.recipe import read_recipe, section_of
from tests import drill

MEASURED = ["measurements", "deploy", "report"]


@pytest.fixture
def steps(drilled: tuple[Path, Path]) -> dict[str, Step]:
    return read_steps(open_bundle(drilled[1] / "evidence", "evidence", UNSIGNED))


def outcomes(before: dict[str, Step], after: dict[str, Step]) -> dict[str, str]:
    return {row.name: row.came for row in compare_steps(before, after)}


def test_a_run_is_reproduced_bit_for_bit(tmp_path: Path) -> None:
    """With as many threads as a recipe has that names none."""
    run, sources = str(tmp_path / "run"), str(drill.DRILL.parent)
    assert drill.run(tmp_path / "store", tmp_path / "run", "--set", "threads=2").returncode == 0
    words = [str(drill.ESPALIER), "reproduce", run, "--sources", sources, "--allow-unsigned"]
    (here := tmp_path / "here").mkdir()
    done = drill.guarded(words, here, tmp_path / "connections")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = dict(reversed(line.split(maxsplit=1)) for line in done.stdout.splitlines() if line[:8].strip() == "same")
    results = drill.digests(tmp_path / "run")
    assert set(results) - {"decision", "verdict"} <= set(rows)
    assert "DIFFERS" not in done.stdout
    assert list(here.iterdir()) == []
    # And it asked for no other machine.
    assert not (tmp_path / "connections").exists()


def test_the_recorded_recipe_is_the_recipe(drilled: tuple[Path, Path], steps: dict[str, Step]) -> None:
    evidence = open_bundle(drilled[1] / "evidence", "evidence", UNSIGNED)
    found = recorded_recipe(evidence, steps, drill.DRILL.parent, [])
    assert section_of(found) == section_of(read_recipe(drill.DRILL))
    changed = recorded_recipe(evidence, steps, drill.DRILL.parent, ["seed=7"])
    assert changed.seed == 7
    with pytest.raises(RecipeError, match="sede"):
        recorded_recipe(evidence, steps, drill.DRILL.parent, ["sede=7"])


def test_the_same_steps_are_the_same(steps: dict[str, Step]) -> None:
    found = outcomes(steps, steps)
    assert set(found.values()) == {"same"}
    assert list(found).index("dense") < list(found).index("pruned") < list(found).index("deploy")


def test_the_first_step_that_differs_is_named_with_its_reason(steps: dict[str, Step]) -> None:
    other = {"weights.safetensors": "0" * 64}
    libraries = dict(steps["dense"].libraries) | {"torch": "1.0"}
    dense = replace(steps["dense"], files=other, libraries=libraries)
    pruned = replace(steps["pruned"], files=other, inputs={"dense": dense.digest})
    rows = [row for row in compare_steps(steps, {**steps, "dense": dense, "pruned": pruned}) if row.came == "differs"]
    assert [row.name for row in rows] == ["dense", "pruned"]
    assert rows[0].why == f"other libraries: torch {steps['dense'].libraries['torch']} then, 1.0 now"
    assert rows[1].why == "made of another 'dense'"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "this step does not repeat"),
        ({"config": {"seed": 1}}, "other settings"),
        ({"code": "0"}, "Espalier's own code is another one"),
        ({"host_class": "aarch64-neon"}, "on aarch64-neon now"),
    ],
)
def test_what_decides_the_difference_is_told(steps: dict[str, Step], changes: dict[str, object], told: str) -> None:
    again = replace(steps["sets"], files={"other": "0" * 64}, **changes)  # type: ignore[arg-type]
    (row,) = [row for row in compare_steps(steps, {**steps, "sets": again}) if row.name == "sets"]
    assert told in row.why


@pytest.mark.parametrize("name", MEASURED)
def test_timings_and_what_is_made_of_them_may_differ(steps: dict[str, Step], name: str) -> None:
    again = replace(steps[name], files={"other": "0" * 64})
    assert outcomes(steps, {**steps, name: again})[name] == "timings"


def test_a_step_that_is_not_there_is_missing(steps: dict[str, Step]) -> None:
    found = outcomes(steps, {name: step for name, step in steps.items() if name not in ("sets", "deploy")})
    assert found["sets"] == "missing"
    assert found["deploy"] == "timings"


def test_steps_that_are_made_of_themselves_are_refused(steps: dict[str, Step]) -> None:
    circle = {**steps, "dense": replace(steps["dense"], inputs={"pruned": "0" * 64})}
    with pytest.raises(BundleError, match="made of itself"):
        compare_steps(circle, steps)
