"""Where milliseconds come from: what the recipe asks for, or the best that this host and the profile have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from devices.detect import Host
from devices.engines.select import require_measurable
from devices.errors import DeviceError, RecipeError
from devices.profile import Profile
from devices.roofline import missing_rates
from pipeline.recipe.prune import LatencySource

if TYPE_CHECKING:
    # It imports torch, and this is asked before any of a run's steps.
    from pipeline.prune.budget import Source

_SOURCES: tuple[Source, ...] = ("measured", "table", "predicted")


def choose_source(
    asked: LatencySource, profile: Profile, host: Host, precision: str, board: str | None = None
) -> Source:
    """The source asked for; `auto`: measured, else the profile's table, else predicted.

    `precision` is the one that ships; `board` the name of the board that the run is for, on which nothing is measured
    before its engines are built. Raises `RecipeError` that says what is missing of each.
    """
    if asked != "auto":
        lacks = what_lacks(asked, profile, host, precision, board)
        if lacks is not None:
            raise RecipeError(
                "prune.latency_source", f"is '{asked}', and {lacks}", "Choose another, or 'auto' for what there is"
            )
        return asked
    reasons = {source: what_lacks(source, profile, host, precision, board) for source in _SOURCES}
    for source, lacks in reasons.items():
        if lacks is None:
            return source
    raise RecipeError(
        "prune.target_latency_ms",
        f"milliseconds on {profile.name} can neither be measured here ({reasons['measured']}), nor read from a table "
        f"({reasons['table']}), nor predicted ({reasons['predicted']})",
        "Run it on the device, add what is missing to the profile (`espalier devices calibrate` measures a table, on a "
        "board too), or set target_macs instead",
    )


def what_lacks(source: Source, profile: Profile, host: Host, precision: str, board: str | None = None) -> str | None:
    """What this source has not got; None when it has everything."""
    if source == "measured" and board is not None:
        return f"pruned networks are not measured on board '{board}'"
    if source == "measured":
        try:
            require_measurable(profile, host)
        except DeviceError as reason:
            return reason.what
        if profile.engine.runtime != "onnxruntime":
            return "pruning measures engines of ONNX Runtime alone"
        return None
    if source == "predicted":
        missing = missing_rates(profile.hardware, precision)
        return f"the profile lacks {' and '.join(missing)}" if missing else None
    if profile.latency_table is None:
        return "the profile has no [latency_table]"
    if profile.latency_table.precision != precision:
        return f"the profile's [latency_table] is of {profile.latency_table.precision}, and {precision} ships"
    return None
