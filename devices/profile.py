"""Device profiles: what a device is, as data. One TOML file a device in `devices/profiles/`.

Values that are not known are absent, never guessed. Each value's source stands in `[sources]`.
"""

from __future__ import annotations

import difflib
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast, get_args

from devices.errors import DeviceError
from devices.files import read_toml

PROFILE_FOLDER = Path(__file__).parent / "profiles"

Kind = Literal["cpu", "jetson", "gpu"]
Runtime = Literal["onnxruntime", "tensorrt", "tensorrt_rtx"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
Activations = Literal["unsigned", "signed"]


@dataclass(frozen=True, kw_only=True)
class EngineProfile:
    """Which engine the device runs and what it takes."""

    runtime: Runtime
    """Library that builds and runs the engine."""
    max_opset: int
    """Highest ONNX opset that the engine's parser takes."""
    precisions: tuple[Precision, ...]
    """Precisions that the device computes in."""
    int8_activations: Activations | None = None
    """INT8 flavour: unsigned activations for VNNI CPUs, signed and symmetric for TensorRT."""
    provider: str | None = None
    """Execution provider of ONNX Runtime."""
    threads: int | None = None
    """Threads a query may use, on a CPU."""


@dataclass(frozen=True, kw_only=True)
class PruningProfile:
    """What widths the device runs well."""

    channel_step: int
    """Channel counts are multiples of this."""


@dataclass(frozen=True, kw_only=True)
class MeasureProfile:
    """What is measured on the device."""

    batch_sizes: tuple[int, ...]
    """Batch sizes of the throughput table; the first is the one latency is measured at."""


@dataclass(frozen=True, kw_only=True)
class HardwareProfile:
    """Rates of the hardware, dense, at its highest listed clock. Absent means unknown."""

    sm_count: int | None = None
    gpu_clock_mhz: float | None = None
    int8_tops: float | None = None
    fp16_tflops: float | None = None
    bandwidth_gb_s: float | None = None
    memory_gb: float | None = None
    dla_cores: int | None = None
    compute_capability: str | None = None


@dataclass(frozen=True, kw_only=True)
class RecogniseProfile:
    """How the device is known when we run on it. All that are given must match."""

    machine: tuple[str, ...] = ()
    """Values of `platform.machine()`; empty: any."""
    device_tree_model: str | None = None
    """Regular expression on the device tree's model."""
    gpu_name: str | None = None
    """Regular expression on the GPU's name."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A device: engine, widths, rates and how to recognise it."""

    name: str
    title: str
    kind: Kind
    engine: EngineProfile
    pruning: PruningProfile
    measure: MeasureProfile
    hardware: HardwareProfile
    recognise: RecogniseProfile
    sources: dict[str, str]
    """Where each value is from, by its dotted name or its section's."""


_SECTIONS: dict[str, type] = {
    "engine": EngineProfile,
    "pruning": PruningProfile,
    "measure": MeasureProfile,
    "hardware": HardwareProfile,
    "recognise": RecogniseProfile,
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "kind": get_args(Kind),
    "engine.runtime": get_args(Runtime),
    "engine.precisions": get_args(Precision),
    "engine.int8_activations": get_args(Activations),
}
_POSITIVE = {
    "engine.max_opset",
    "engine.threads",
    "pruning.channel_step",
    "measure.batch_sizes",
    "hardware.sm_count",
    "hardware.gpu_clock_mhz",
    "hardware.int8_tops",
    "hardware.fp16_tflops",
    "hardware.bandwidth_gb_s",
    "hardware.memory_gb",
}
_SCALARS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,)}


def profile_names() -> tuple[str, ...]:
    """Names of the profiles that ship, sorted."""
    return tuple(sorted(path.stem for path in PROFILE_FOLDER.glob("*.toml")))


def load_profile(name: str) -> Profile:
    """The shipped profile of that name. Raises `DeviceError` that names the nearest known one."""
    if name not in profile_names():
        near = difflib.get_close_matches(name, profile_names(), n=1, cutoff=0.4)
        hint = f"Did you mean '{near[0]}'? " if near else ""
        raise DeviceError(f"device '{name}'", "there is no such profile", f"{hint}See `espalier devices list`")
    return read_profile(PROFILE_FOLDER / f"{name}.toml")


def read_profile(path: Path) -> Profile:
    """Read and check a profile file. Raises `DeviceError` that names the file and the key."""
    raw = read_toml(path, DeviceError)
    sources = raw.pop("sources", {})
    if not isinstance(sources, dict) or not all(isinstance(text, str) for text in sources.values()):
        raise DeviceError(f"{path}: sources", "must be a table of texts")
    known = ["name", "title", "kind", *_SECTIONS]
    _refuse_unknown(raw, known, "", path)
    for key in ("name", "title", "kind", "engine", "pruning", "measure"):
        if key not in raw:
            raise DeviceError(f"{path}: {key}", "is missing", "Every profile needs it; see devices/profiles/cpu.toml")
    top = {key: _check_value(f"{key}", "str", raw[key], path) for key in ("name", "title", "kind")}
    sections = {key: _read_section(key, raw.get(key, {}), path) for key in _SECTIONS}
    return Profile(
        name=top["name"],
        title=top["title"],
        kind=cast(Kind, top["kind"]),
        engine=sections["engine"],
        pruning=sections["pruning"],
        measure=sections["measure"],
        hardware=sections["hardware"],
        recognise=sections["recognise"],
        sources=dict(sources),
    )


def _read_section(section: str, raw: Any, path: Path) -> Any:
    if not isinstance(raw, dict):
        raise DeviceError(f"{path}: {section}", "must be a table", f"Write it as [{section}]")
    kind = _SECTIONS[section]
    declared = {field.name: field for field in fields(kind)}
    _refuse_unknown(raw, list(declared), f"{section}.", path)
    values = {}
    for name, field in declared.items():
        if name in raw:
            values[name] = _check_value(f"{section}.{name}", str(field.type), raw[name], path)
        elif field.default is MISSING:
            raise DeviceError(f"{path}: {section}.{name}", "is missing", "Every profile needs it")
    return kind(**values)


def _refuse_unknown(raw: dict[str, Any], known: list[str], prefix: str, path: Path) -> None:
    for key in raw:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            hint = f"Did you mean '{prefix}{near[0]}'?" if near else f"Known: {', '.join(known)}"
            raise DeviceError(f"{path}: {prefix}{key}", "is not a key of a profile", hint)


def _check_value(key: str, annotation: str, value: Any, path: Path) -> Any:
    many = annotation.startswith("tuple")
    if many:
        if not isinstance(value, list) or not value:
            raise DeviceError(f"{path}: {key}", "must be a list with at least one value")
        return tuple(_check_scalar(key, annotation, item, path) for item in value)
    return _check_scalar(key, annotation, value, path)


def _check_scalar(key: str, annotation: str, value: Any, path: Path) -> Any:
    choices = _CHOICES.get(key)
    wanted = next((name for name in _SCALARS if name in annotation and choices is None), "str")
    if isinstance(value, bool) or not isinstance(value, _SCALARS[wanted]):
        raise DeviceError(f"{path}: {key}", f"must be of type {wanted}, not {value!r}")
    if choices and value not in choices:
        raise DeviceError(f"{path}: {key}", f"'{value}' is not one of {', '.join(choices)}")
    if key in _POSITIVE and value <= 0:
        raise DeviceError(f"{path}: {key}", f"must be above 0, not {value}")
    return value
