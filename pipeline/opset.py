"""Which ONNX opset a run exports to."""

from __future__ import annotations

from devices.errors import RecipeError
from devices.profile import Precision, Profile
from pipeline.recipe import ExportConfig

# What torch.onnx.export writes without conversion.
_EXPORTER_OPSET = 20
# The first in which convolutions take BF16.
_BF16_OPSET = 22


def choose_opset(config: ExportConfig, profile: Profile, precision: Precision) -> int:
    """The recipe's opset, or the highest that exporter and device take. Raises `RecipeError` above the device's."""
    highest = profile.engine.max_opset
    if config.opset is None:
        return min(_BF16_OPSET if precision == "bf16" else _EXPORTER_OPSET, highest)
    if config.opset > highest:
        raise RecipeError(
            "export.opset",
            f"is {config.opset}, and {profile.name} takes at most {highest}",
            f"Set it to {highest} or leave it out",
        )
    return config.opset
