"""Names of corruptions, and of sets of them."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

STANDARD = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic",
    "pixelate",
    "jpeg",
)
"""The fifteen of CIFAR-10-C and ImageNet-C (Hendrycks & Dietterich 2019)."""
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""Their four more, for validation."""
EDGE = ("dead_pixels", "exposure_flicker", "rolling_shutter", "low_bitrate_jpeg")
"""Faults of cameras at the edge."""
SETS = {"standard": STANDARD, "edge": EDGE, "all": (*STANDARD, *EXTRA, *EDGE)}


def _methods(given: Any) -> Any:
    """The names behind the name of a set; a list as it is, when all its names are known."""
    if isinstance(given, str):
        if given not in SETS:
            raise ValueError(f"is '{given}'; give a list of names, or one of {', '.join(map(repr, SETS))}")
        return SETS[given]
    names = [name for name in given if isinstance(name, str)] if isinstance(given, (list, tuple)) else []
    for name in names:
        if name not in SETS["all"]:
            near = difflib.get_close_matches(name, SETS["all"], n=1, cutoff=0.4)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(SETS['all'])}"
            raise ValueError(f"names '{name}', which is no corruption: {hint}")
    if len(set(names)) < len(names):
        raise ValueError("names a corruption twice")
    # Past this the list of a TOML file is no JSON any more, and a list is no tuple.
    return tuple(given) if isinstance(given, list) else given


_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"enum": list(SETS)},
        {"type": "array", "items": {"enum": list(SETS["all"])}, "uniqueItems": True},
    ]
}
Corruptions = Annotated[tuple[str, ...], BeforeValidator(_methods), WithJsonSchema(_SCHEMA)]
