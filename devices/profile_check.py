"""What in a profile contradicts itself, or what is known of such hardware. Faults of form are found when it is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from devices.profile import Precision, Profile

# Operations of one multiprocessor in one clock, dense; the architecture white papers of NVIDIA.
_INT8_PER_CLOCK = {"7.2": 2048, "7.5": 2048, "8.6": 2048, "8.7": 4096, "8.9": 2048, "12.0": 2048}
_FP16_PER_CLOCK = {name: rate / 2 for name, rate in _INT8_PER_CLOCK.items()} | {"5.3": 512, "6.2": 512, "11.0": 8192}
_FP8_PER_CLOCK = {"11.0": 16384}
_FP32_LANES = {
    "5.3": 128,
    "6.2": 128,
    "7.2": 64,
    "7.5": 64,
    "8.6": 128,
    "8.7": 128,
    "8.9": 128,
    "11.0": 128,
    "12.0": 128,
}
_FACTOR = 1.5
"""Data sheets count with another clock than a tool shows: up to so much is no contradiction."""
_LEAST_CAPABILITY: dict[Precision, tuple[int, int]] = {"fp16": (5, 3), "int8": (6, 1), "bf16": (8, 0), "fp8": (8, 9)}
_WITHOUT_INT8 = {"6.2"}
_WITH_DLA = {"7.2", "8.7"}
_LEAST_OF_RTX = (7, 5)
_OPSETS = {(8, 2): 13, (8, 5): 17, (8, 6): 17, (10, 3): 20}
"""Highest that a version of TensorRT takes."""
_LEAST_VERSION: dict[Precision, tuple[int, int]] = {"bf16": (9, 0), "fp8": (9, 0)}


@dataclass(frozen=True)
class Doubt:
    """What looks wrong and may be right."""

    key: str
    text: str


def doubts(profile: Profile) -> tuple[Doubt, ...]:
    """All that is doubtful in a profile, in the order of its sections. Empty for every profile that ships."""
    found = [*_engine(profile), *_precisions(profile), *_pruning(profile), *_rates(profile), *_hardware(profile)]
    return (*found, *_recognition(profile), *_sources(profile))


def _engine(profile: Profile) -> Iterator[Doubt]:
    engine, capability = profile.engine, _capability(profile)
    if engine.runtime == "onnxruntime":
        if engine.provider is None:
            yield Doubt("engine.provider", "is missing: no engine can be opened without it")
        if engine.provider == "CPUExecutionProvider" and engine.threads is None:
            yield Doubt("engine.threads", "is missing: no engine can be built without it")
        return
    if engine.runtime == "tensorrt_rtx":
        if capability is None:
            what = "is missing: TensorRT-RTX builds ahead of time for a compute capability"
            yield Doubt("hardware.compute_capability", what)
        elif capability < _LEAST_OF_RTX:
            yield Doubt("engine.runtime", "TensorRT-RTX runs on compute capability 7.5 and later: use tensorrt")
    if "int8" in engine.precisions and engine.int8_activations != "signed":
        yield Doubt("engine.int8_activations", "TensorRT takes signed ones only")
    if engine.runtime == "tensorrt" and engine.versions:
        oldest = _numbers(engine.versions[0])
        highest = _OPSETS.get(oldest, engine.max_opset)
        if engine.max_opset > highest:
            what = f"TensorRT {engine.versions[0]} takes opset {highest} at most, not {engine.max_opset}"
            yield Doubt("engine.max_opset", what)
        for precision, least in _LEAST_VERSION.items():
            if precision in engine.precisions and oldest < least:
                yield Doubt("engine.precisions", f"TensorRT {engine.versions[0]} builds no {precision.upper()} engine")
    if engine.served_by == "trtexec" and engine.runtime != "tensorrt":
        yield Doubt("engine.served_by", "trtexec is TensorRT's: it builds nothing else")


def _precisions(profile: Profile) -> Iterator[Doubt]:
    text, capability = profile.hardware.compute_capability, _capability(profile)
    if capability is None:
        return
    for precision in profile.engine.precisions:
        least = _LEAST_CAPABILITY.get(precision, (0, 0))
        if capability < least or (precision == "int8" and text in _WITHOUT_INT8):
            yield Doubt("engine.precisions", f"compute capability {text} computes no {precision.upper()}")
    if profile.engine.runtime == "tensorrt_rtx" and text == "7.5" and "fp32" in profile.engine.precisions:
        yield Doubt("engine.precisions", "TensorRT-RTX compiles no FP32 convolution or product for 7.5: FP16 there")


def _pruning(profile: Profile) -> Iterator[Doubt]:
    step = profile.pruning.channel_step
    if step & (step - 1):
        yield Doubt("pruning.channel_step", f"{step} is no power of two, as the steps of all known devices are")
    elif profile.engine.runtime != "onnxruntime" and "int8" in profile.engine.precisions and step < 16:
        yield Doubt("pruning.channel_step", f"INT8 tensor cores work on 16 channels or more at a time, not on {step}")


def _rates(profile: Profile) -> Iterator[Doubt]:
    hardware = profile.hardware
    if hardware.sm_count is None or hardware.gpu_clock_mhz is None or hardware.compute_capability is None:
        return
    text = hardware.compute_capability
    known = (
        ("int8_tops", hardware.int8_tops, _INT8_PER_CLOCK.get(text)),
        ("fp16_tflops", hardware.fp16_tflops, _FP16_PER_CLOCK.get(text)),
        ("fp8_tflops", hardware.fp8_tflops, _FP8_PER_CLOCK.get(text)),
        ("fp32_tflops", hardware.fp32_tflops, 2 * _FP32_LANES[text] if text in _FP32_LANES else None),
    )
    for name, given, per_clock in known:
        if given is None or per_clock is None:
            continue
        expected = hardware.sm_count * per_clock * hardware.gpu_clock_mhz / 1e6
        if not 1 / _FACTOR <= given / expected <= _FACTOR:
            by = f"{hardware.sm_count} SM x {per_clock:.0f} x {hardware.gpu_clock_mhz:g} MHz"
            hint = ": is it a rate of sparse weights, or with the DLA?" if given > expected else ""
            yield Doubt(f"hardware.{name}", f"{given:g} contradicts {expected:.3g} ({by}){hint}")


def _hardware(profile: Profile) -> Iterator[Doubt]:
    hardware, workspace_mb = profile.hardware, profile.engine.workspace_mb
    if hardware.dla_cores and hardware.compute_capability not in (None, *_WITH_DLA):
        yield Doubt("hardware.dla_cores", f"compute capability {hardware.compute_capability} comes without a DLA")
    if workspace_mb is not None and hardware.memory_gb is not None and workspace_mb > 1000 * hardware.memory_gb:
        yield Doubt("engine.workspace_mb", f"{workspace_mb} MiB is more than the memory of {hardware.memory_gb:g} GB")
    if hardware.power_mode is not None and profile.kind != "jetson":
        yield Doubt("hardware.power_mode", "only a Jetson has modes of nvpmodel")


def _recognition(profile: Profile) -> Iterator[Doubt]:
    rule = profile.recognise
    if not any(getattr(rule, field.name) for field in fields(rule)):
        yield Doubt("recognise", "is empty: no host is taken for the device, and measuring is refused unless forced")
    elif profile.kind == "jetson" and rule.device_tree_model is None:
        yield Doubt("recognise.device_tree_model", "is missing: other boards are taken for this one")
    elif profile.kind == "gpu" and rule.gpu_name is None:
        yield Doubt("recognise.gpu_name", "is missing: computers with another GPU, or none, are taken for this one")


def _sources(profile: Profile) -> Iterator[Doubt]:
    figures = [field.name for field in fields(profile.hardware) if getattr(profile.hardware, field.name) is not None]
    keys = [f"hardware.{name}" for name in figures]
    keys += ["engine.max_opset", "pruning.channel_step"]
    sections = {key.split(".")[0] for key in profile.sources if "." not in key}
    missing = [key for key in keys if key not in profile.sources and key.split(".")[0] not in sections]
    if missing:
        yield Doubt(
            "sources", f"nobody can tell where {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} from"
        )


def _capability(profile: Profile) -> tuple[int, int] | None:
    text = profile.hardware.compute_capability
    return None if text is None else _numbers(text)


def _numbers(version: str) -> tuple[int, int]:
    major, _, rest = version.partition(".")
    return int(major), int(rest.partition(".")[0] or 0)
