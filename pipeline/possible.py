"""What a recipe asks for and a device cannot do, by its profile: said before anything runs."""

from __future__ import annotations

from devices.errors import RecipeError
from pipeline.latency_source.choose import choose_source, what_lacks
from pipeline.report.figures import plural
from pipeline.steps.build_job import ON_DLA
from pipeline.work import Work


def require_possible(work: Work) -> None:
    """Raise `DeviceError` or `RecipeError` for what the profile says cannot be, or cannot be judged."""
    if work.board is not None:
        _require_possible_on_board(work, work.board.name)
    gate, plan = work.recipe.gate, work.engines
    for precision in ("fp32", "int8"):
        key = f"min_speedup_dense_{precision}"
        if getattr(gate, key) is not None and precision not in plan.precisions:
            built = ", ".join(plan.precisions)
            what = f"needs a dense {precision.upper()} engine, and on {work.profile.name} this run builds {built}"
            raise RecipeError(f"gate.{key}", what, "Take min_speedup_dense, which is against the dense baseline")
    if work.recipe.measure.rebuilds is not None and work.profile.engine.runtime == "onnxruntime":
        what = f"is of TensorRT, and {work.profile.name} runs ONNX Runtime, which builds the same engine every time"
        raise RecipeError("measure.rebuilds", what, "Leave it out")
    if work.recipe.measure.rebuilds is not None and work.graphs_alone:
        what = f"is of engines, and for a {work.profile.title} this run makes the graph: trtexec builds on the board"
        raise RecipeError("measure.rebuilds", what, "Leave it out")
    if work.recipe.engine.dla_core is not None:
        _require_dla(work, work.recipe.engine.dla_core)
    _require_milliseconds(work)


def _require_dla(work: Work, core: int) -> None:
    profile = work.profile
    cores = profile.hardware.dla_cores or 0 if profile.engine.runtime == "tensorrt" else 0
    if core >= cores:
        what = f"is {core}, and a {profile.title} has {plural(cores, 'DLA core')}"
        raise RecipeError("engine.dla_core", what, f"Set it below {cores}" if cores else "Leave it out")
    if ON_DLA not in work.engines.precisions:
        what = f"is of FP16 engines, and this run builds {', '.join(work.engines.precisions)}"
        raise RecipeError("engine.dla_core", what, "Set quantize.precision to 'fp16', or leave it out")
    if work.recipe.prune is not None and work.recipe.prune.target_latency_ms is not None:
        what = "is set, and the milliseconds of pruning are of the GPU"
        raise RecipeError("engine.dla_core", what, "Prune to target_macs, or leave it out")


def _require_milliseconds(work: Work) -> None:
    """A source for the milliseconds of pruning: without one, only the step after training would say so."""
    recipe, board = work.recipe, work.board.name if work.board else None
    device = (work.profile, work.host, recipe.quantize.precision, board)
    if recipe.search is not None:
        lacks = what_lacks("measured", *device) if "latency_ms" in recipe.search.objectives else None
        if lacks is not None:
            what = f"is measured on real engines, and for {work.profile.name} {lacks}"
            raise RecipeError("search.objectives: latency_ms", what, "Search by macs, or on the device itself")
    elif recipe.prune is not None and recipe.prune.target_latency_ms is not None:
        choose_source(recipe.prune.latency_source, *device)


def _require_possible_on_board(work: Work, board: str) -> None:
    """What is done on this machine alone."""
    if work.recipe.task.kind == "custom":
        what = "its score is code of this machine, which a board does not have"
        raise RecipeError("task.kind: custom", what, "Run the recipe on the device itself, without a board")
    if work.recipe.search and "latency_ms" in work.recipe.search.objectives:
        what = f"its networks are measured on this machine, not on board '{board}'"
        raise RecipeError("search.objectives: latency_ms", what, "Search by macs, or on the device itself")
