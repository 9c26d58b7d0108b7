"""A run made again from what its evidence tells, compared with it step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from devices.bundle import MANIFEST, Bundle
from devices.errors import BundleError
from pipeline.attest.read import Step
from pipeline.recipe import Recipe, recipe_of

Came = Literal["same", "timings", "differs", "missing"]


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """One step, made again."""

    name: str
    came: Came
    """`timings`: it was measured, or follows from what was, and may differ."""
    why: str
    """Of what differs: what was different before it was made, or that nothing was."""


def recorded_recipe(evidence: Bundle, steps: Mapping[str, Step], sources: Path, overrides: Sequence[str]) -> Recipe:
    """The recipe that a run was made by. The files that it names are looked for, by name, in `sources`.

    Raises `RecipeError`, and `BundleError` when the evidence holds no recipe.
    """
    recorded = evidence.manifest.get("recipe")
    if not isinstance(recorded, dict) or not isinstance(recorded.get("model"), dict):
        raise BundleError(str(evidence.folder), "holds no recipe", "Run the recipe again with this version")
    raw = {key: value for key, value in recorded.items() if value is not None}
    # What stands beside an ONNX file was put there when the recipe was read.
    beside = ("factory", "args") if recorded["model"].get("onnx") else ()
    raw["model"] = {key: value for key, value in recorded["model"].items() if value is not None and key not in beside}
    prune = raw.get("prune")
    if isinstance(prune, dict) and isinstance(prune.get("keep"), dict):
        # The first glob that matches counts, and a manifest does not keep the order.
        orders = [step.config["keep_order"] for step in steps.values() if "keep_order" in step.config]
        raw["prune"] = prune | {"keep": {glob: prune["keep"].get(glob) for glob in orders[0]} if orders else {}}
    return recipe_of(raw, evidence.folder / MANIFEST, sources, overrides)


def compare_steps(before: Mapping[str, Step], after: Mapping[str, Step]) -> tuple[Repeated, ...]:
    """Each step that was attested before, in the order of what needs what."""
    timed = _timed(before)
    return tuple(_repeated(before[name], after, name in timed) for name in _in_order(before))


def _repeated(step: Step, after: Mapping[str, Step], timed: bool) -> Repeated:
    if step.name not in after:
        return Repeated(name=step.name, came="timings" if timed else "missing", why="there is no such step now")
    again = after[step.name]
    if again.digest == step.digest:
        return Repeated(name=step.name, came="same", why="")
    if timed:
        return Repeated(name=step.name, came="timings", why="")
    return Repeated(name=step.name, came="differs", why=_why(step, again))


def _why(before: Step, after: Step) -> str:
    """What decides the step's result and is another one now."""
    other = [
        name for name in sorted({*before.inputs, *after.inputs}) if before.inputs.get(name) != after.inputs.get(name)
    ]
    versions = [
        f"{name} {before.libraries.get(name)} then, {after.libraries.get(name)} now"
        for name in sorted({*before.libraries, *after.libraries})
        if before.libraries.get(name) != after.libraries.get(name)
    ]
    reasons = [f"made of another {' and '.join(repr(name) for name in other)}"] if other else []
    reasons += (
        [f"other settings: {', '.join(_changed(before.config, after.config))}"] if before.config != after.config else []
    )
    reasons += ["Espalier's own code is another one"] if before.code != after.code else []
    reasons += [f"other libraries: {'; '.join(versions)}"] if versions else []
    if before.host_class != after.host_class:
        reasons.append(f"on {before.host_class} then, on {after.host_class} now")
    return ", ".join(reasons) or "all that decides it is the same, and it came out different: this step does not repeat"


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]


def _timed(steps: Mapping[str, Step]) -> set[str]:
    """Steps that were measured on the host that they name, and all that was made of them."""
    timed: set[str] = set()
    for name in _in_order(steps):
        step = steps[name]
        if step.config.get("host") is not None or timed & set(step.inputs):
            timed.add(name)
    return timed


def _in_order(steps: Mapping[str, Step]) -> list[str]:
    """Names in an order in which each follows what it was made of."""
    order: dict[str, None] = {}

    def add(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise BundleError("attestations", f"step '{name:.80}' is made of itself", "Do not use this run")
        if name in order or name not in steps:
            return
        for needed in steps[name].inputs:
            add(needed, (*above, name))
        order[name] = None

    for name in steps:
        add(name, ())
    return list(order)
