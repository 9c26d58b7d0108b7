"""Which engines a run builds of each form: the device's baseline, what is asked for, and what that has to beat."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from devices.engines.select import require_precision_of
from devices.errors import DeviceError, RecipeError
from devices.profile import Precision, Profile
from pipeline.recipe import QuantizeConfig

FORMS = ("dense", "compressed")
_FLOATS: tuple[Precision, ...] = ("fp32", "fp16", "bf16")
"""The highest first."""
_QUANTIZED = ("int8", "fp8")
# QuantizeLinear takes FP16 from here on: before, casts would part the quantized values from their product.
_OPSET_OF_HALF_REST = 19
_LEAST_OPSET: dict[str, int] = {"fp8": 19, "bf16": 22}


@dataclass(frozen=True, kw_only=True)
class EnginePlan:
    """Engines of each form, by precision."""

    baseline: Precision
    """The highest float precision that the device computes in: what every engine is compared with."""
    candidate: Precision
    """What the recipe asks for; it ships when it is the fastest."""
    precisions: tuple[Precision, ...]
    """All that are built: the baseline first, the candidate last."""
    rest: Precision
    """What a graph in INT8 or FP8 computes the rest in."""

    @property
    def rivals(self) -> tuple[Precision, ...]:
        """What ships instead where the candidate is not faster."""
        return tuple(name for name in self.precisions if name != self.candidate)

    @property
    def quantized(self) -> bool:
        """Whether the candidate is calibrated."""
        return self.candidate in _QUANTIZED

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def plan_engines(config: QuantizeConfig, profile: Profile, opset: int) -> EnginePlan:
    """What is built for this device. Raises `DeviceError` or `RecipeError` for what its profile says cannot be."""
    there, candidate = profile.engine.precisions, config.precision
    require_precision_of(profile, candidate)
    baseline = next((name for name in _FLOATS if name in there), None)
    if baseline is None:
        what = f"has none of {', '.join(_FLOATS)}, and an engine is compared with one in such a precision"
        raise DeviceError(f"device '{profile.name}': engine.precisions", what, "Add what it computes in")
    if candidate == "int8" and profile.engine.int8_activations is None:
        what = "is missing; INT8 needs it"
        raise DeviceError(f"device '{profile.name}': engine.int8_activations", what, "Add it to the profile")
    precisions = [baseline]
    if candidate in _QUANTIZED and "fp16" in there:
        precisions.append("fp16")
    precisions.append(candidate)
    rest = _rest(config, profile, opset) if candidate in _QUANTIZED else baseline
    _require_opset(profile, candidate, opset)
    return EnginePlan(baseline=baseline, candidate=candidate, precisions=tuple(dict.fromkeys(precisions)), rest=rest)


def least_opset(plan: EnginePlan) -> int:
    """The first opset that says what the plan's engines compute, 0 where any does."""
    rest = _OPSET_OF_HALF_REST if plan.quantized and plan.rest != "fp32" else 0
    return max(_LEAST_OPSET.get(plan.candidate, 0), rest)


def plan_notes(plan: EnginePlan, config: QuantizeConfig, profile: Profile, opset: int) -> tuple[str, ...]:
    """What is to be said of a plan: a quantized graph whose opset keeps its rest from FP16, which the device has."""
    has_half = profile.engine.runtime != "onnxruntime" and "fp16" in profile.engine.precisions
    if not (plan.quantized and plan.rest == "fp32" and has_half and config.rest == "auto"):
        return ()
    name = plan.candidate.upper()
    why = f"FP16 around {name} needs opset {_OPSET_OF_HALF_REST}, and {profile.name} is served opset {opset}"
    return (f"what is not {name} of the {name} engines is FP32: {why}",)


def graph_of(engine: str, plan: EnginePlan) -> str:
    """Name of the step that gives the graph of this engine."""
    form, _, precision = engine.partition("-")
    if precision == "fp32":
        return f"simplified {form}"
    if precision in _QUANTIZED and plan.rest == "fp32":
        return f"quantized {form}"
    return f"half {form}-{precision}"


def engine_title(name: str) -> str:
    """An engine's name in words: `dense-fp32` is "dense, FP32"."""
    form, _, precision = name.partition("-")
    return f"{form}, {precision.upper()}"


def in_order(names: Any) -> list[str]:
    """Names of engines, dense ones first, higher precisions first."""
    ranks = {name: rank for rank, name in enumerate((*_FLOATS, *_QUANTIZED))}

    def rank(name: str) -> tuple[bool, int, str]:
        form, _, precision = name.partition("-")
        return form != FORMS[0], ranks.get(precision, len(ranks)), name

    return sorted(names, key=rank)


def _rest(config: QuantizeConfig, profile: Profile, opset: int) -> Precision:
    """FP16 where TensorRT has it and the graph can say so; on a CPU there is FP32 alone."""
    there = profile.engine.precisions
    half = profile.engine.runtime != "onnxruntime" and "fp16" in there and opset >= _OPSET_OF_HALF_REST
    if config.rest == "fp16" and not half:
        of_opset = f"the graph is of opset {opset}, and this needs {_OPSET_OF_HALF_REST}"
        why = of_opset if "fp16" in there else "it computes no FP16"
        what = f"is 'fp16', and {profile.name} cannot compute the rest so: {why}"
        raise RecipeError("quantize.rest", what, "Set it to 'auto'")
    if config.rest != "fp32" and half:
        return "fp16"
    if "fp32" not in there:
        what = f"is '{config.rest}', and {profile.name} computes no FP32 (opset {opset})"
        raise RecipeError("quantize.rest", what, f"Set it to 'auto', with an opset of {_OPSET_OF_HALF_REST} at least")
    return "fp32"


def _require_opset(profile: Profile, precision: Precision, opset: int) -> None:
    least = _LEAST_OPSET.get(precision, 0)
    if opset < least:
        fix = "Take fp16" if profile.engine.max_opset < least else f"Set export.opset to {least}, or leave it out"
        what = f"is '{precision}', which needs opset {least}, and the graph is of opset {opset}"
        raise RecipeError("quantize.precision", what, fix)
