"""Options of a session that are tuned by measuring: the step before an engine, and what the engine makes of it."""

from __future__ import annotations

from dataclasses import asdict, replace

from devices.errors import RecipeError
from devices.profile import Profile
from devices.tune import read_tuned
from pipeline.node import ORT, Node, make_node
from pipeline.work import StepInputs, Work

_PREFIX = "tuned "


def tune_nodes(work: Work, engine: str, graph: str) -> list[Node]:
    """The step that tunes the session of this engine, of the graph of that name; none where nothing is to be tuned.

    Raises `RecipeError` where the device's engines are not ONNX Runtime's.
    """
    measure = work.recipe.measure
    if not measure.tune:
        return []
    if work.profile.engine.runtime != "onnxruntime":
        what = f"tunes sessions of ONNX Runtime, and {work.profile.name} runs {work.profile.engine.runtime}"
        raise RecipeError("measure.tune", what, "Remove it, or choose a device of ONNX Runtime")
    config = {
        "engine": asdict(work.profile.engine),
        "session": asdict(work.profile.session),
        "duration_s": measure.duration_s,
        "warmup_s": measure.warmup_s,
        "seed": work.recipe.seed,
        "host": work.device_key,
    }
    return [make_node(f"{_PREFIX}{engine}", "tune", "tune:tune", (graph,), config, ORT)]


def is_tuned(node: str) -> bool:
    """Whether the step of this name tuned a session."""
    return node.startswith(_PREFIX)


def tuned_profile(inputs: StepInputs) -> Profile:
    """The device's profile, with the options that were measured to be best for this engine where they were."""
    profile = inputs.work.profile
    tuned = [stored.folder for node, stored in inputs.results.items() if is_tuned(node)]
    if not tuned:
        return profile
    options = read_tuned(tuned[0])
    return replace(profile, engine=replace(profile.engine, threads=options.threads), session=options.session)
