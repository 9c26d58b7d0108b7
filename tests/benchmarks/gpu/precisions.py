"""Which precisions are checked on a GPU: those that a profile which ships names for it, or for one like it."""

from __future__ import annotations

from collections.abc import Callable

from devices.detect import Host, gpu_matches, gpus_of
from devices.engines.tensorrt_options import Module
from devices.profile import Precision, Profile, load_profile, profile_names

# Convolutions in BF16 are of this opset.
_OPSET_OF_BF16 = 22
_UNKNOWN: tuple[Precision, ...] = ("fp16",)


def precisions_of(module: Module, capability: str, host: Host) -> tuple[Precision, ...]:
    """Of the first profile that fits: this GPU's or one of its compute capability, for this library before another.

    What the library compiles hangs on both: TensorRT-RTX has no FP32 for 7.5, and TensorRT has. A GPU of a compute
    capability that no profile has is checked in FP16. BF16 is left out where the profile's opset is too old for it.
    """

    def is_named(profile: Profile) -> bool:
        return any(gpu_matches(profile, gpu) for gpu in gpus_of(host))

    def is_like(profile: Profile) -> bool:
        return profile.hardware.compute_capability == capability

    known = [profile for profile in map(load_profile, profile_names()) if profile.engine.runtime != "onnxruntime"]
    own = [profile for profile in known if profile.engine.runtime == module]
    tries: list[tuple[list[Profile], Callable[[Profile], bool]]] = [
        (own, is_named),
        (own, is_like),
        (known, is_named),
        (known, is_like),
    ]
    for profiles, fits in tries:
        for profile in filter(fits, profiles):
            old = profile.engine.max_opset < _OPSET_OF_BF16
            return tuple(each for each in profile.engine.precisions if not (each == "bf16" and old))
    return _UNKNOWN
