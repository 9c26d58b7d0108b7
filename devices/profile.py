"""Device profiles: what a device is, as data. One TOML file a device in `devices/profiles/`.

Values that are not known are absent, never guessed. Each value's source stands in `[sources]`.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import MISSING, dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from devices.errors import DeviceError
from devices.files import read_toml
from devices.profile_session import ExecutionMode, GraphOptimization, SessionProfile

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

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
    """Batch sizes of the throughput table; latency is always of one image."""


@dataclass(frozen=True, kw_only=True)
class HardwareProfile:
    """Rates of the hardware, dense, at its highest listed clock. Absent means unknown."""

    sm_count: int | None = None
    gpu_clock_mhz: float | None = None
    int8_tops: float | None = None
    fp16_tflops: float | None = None
    fp32_tflops: float | None = None
    fp8_tflops: float | None = None
    bandwidth_gb_s: float | None = None
    l2_cache_mb: float | None = None
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
class LatencyTableProfile:
    """Measured on the device, by channels: layers of equal input and output channels, one image."""

    precision: Precision
    """Precision that the layers ran in."""
    channels: tuple[int, ...]
    """Ascending."""
    ms_per_gmac: tuple[float, ...]
    """Time of a billion multiply-accumulates at that many channels."""
    overhead_ms_per_layer: float
    """Time that a layer takes however small it is."""


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
    session: SessionProfile = SessionProfile()
    latency_table: LatencyTableProfile | None = None
    """Absent where nobody measured it."""
    sources: dict[str, str]
    """Where each value is from, by its dotted name or its section's."""


_SECTIONS: dict[str, type] = {
    "engine": EngineProfile,
    "pruning": PruningProfile,
    "measure": MeasureProfile,
    "hardware": HardwareProfile,
    "recognise": RecogniseProfile,
    "session": SessionProfile,
}
_OPTIONAL_SECTIONS: dict[str, type] = {"latency_table": LatencyTableProfile}
_CHOICES: dict[str, tuple[str, ...]] = {
    "kind": get_args(Kind),
    "engine.runtime": get_args(Runtime),
    "engine.precisions": get_args(Precision),
    "engine.int8_activations": get_args(Activations),
    "latency_table.precision": get_args(Precision),
    "session.graph_optimization": get_args(GraphOptimization),
    "session.execution_mode": get_args(ExecutionMode),
}
_MAY_BE_ZERO = {"hardware.dla_cores", "latency_table.overhead_ms_per_layer", "session.device_id"}
_MAY_REPEAT = {"latency_table.ms_per_gmac"}
_HIGHEST = 1_000_000
"""No number of a profile comes near it; a library's counter would overflow far above."""
_PATTERNS: dict[str, tuple[str, str]] = {
    "name": (r"[a-z0-9]+([._-][a-z0-9]+)*", "lower-case letters and digits, parted by '-', '_' or '.'"),
    "hardware.compute_capability": (r"\d+\.\d+", "two numbers such as '8.7'"),
}
_EXPRESSIONS = {"recognise.device_tree_model", "recognise.gpu_name"}
_TOP_TEXTS = ("name", "title", "kind")
_SCALARS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}
_EXAMPLES = {"int": "a whole number", "float": "a number", "str": "it in quotes", "bool": "true or false"}


def profile_names() -> tuple[str, ...]:
    """Names of the profiles that ship, sorted."""
    return tuple(sorted(_shipped()))


def load_profile(name: str) -> Profile:
    """The shipped profile of that name, or the one in a file ending in `.toml`.

    Raises `DeviceError` that names the nearest known one.
    """
    if name.endswith(".toml"):
        return read_profile(Path(name))
    shipped = _shipped()
    if name not in shipped:
        near = difflib.get_close_matches(name, list(shipped), n=1, cutoff=0.4)
        hint = f"Did you mean '{near[0]}'? " if near else ""
        raise DeviceError(f"device '{name}'", "there is no such profile", f"{hint}See `espalier devices list`")
    return read_profile(shipped[name])


def _shipped() -> dict[str, Traversable]:
    # As a package's resources, because the agent's zipapp has no folder of profiles.
    folder = files("devices") / "profiles"
    return {path.name[: -len(".toml")]: path for path in folder.iterdir() if path.name.endswith(".toml")}


def read_profile(path: Path | Traversable) -> Profile:
    """Read and check a profile file. Raises `DeviceError` that names the file and the key."""
    raw = read_toml(path, DeviceError)
    sources = raw.pop("sources", {})
    if not isinstance(sources, dict) or not all(isinstance(text, str) for text in sources.values()):
        raise DeviceError(f"{path}: sources", "must be a table of texts", 'Quote dotted names: "engine.max_opset"')
    known = _SECTIONS | _OPTIONAL_SECTIONS
    _refuse_unknown(raw, [*_TOP_TEXTS, *known, "sources"], "", path)
    for key in (*_TOP_TEXTS, "engine", "pruning", "measure"):
        if key not in raw:
            raise DeviceError(f"{path}: {key}", "is missing", "Every profile needs it; see devices/profiles/cpu.toml")
    top = {key: _check_value(key, "str", raw[key], path) for key in _TOP_TEXTS}
    sections = {key: _read_section(key, raw.get(key, {}), path) for key in _SECTIONS}
    table = _read_table(raw["latency_table"], path) if "latency_table" in raw else None
    values = [f"{section}.{field.name}" for section, kind in known.items() for field in fields(kind)]
    _refuse_unknown(sources, [*known, *values], "sources.", path)
    return Profile(
        name=top["name"],
        title=top["title"],
        kind=cast(Kind, top["kind"]),
        engine=sections["engine"],
        pruning=sections["pruning"],
        measure=sections["measure"],
        hardware=sections["hardware"],
        recognise=sections["recognise"],
        session=sections["session"],
        latency_table=table,
        sources=dict(sources),
    )


def _read_section(section: str, raw: Any, path: Path | Traversable) -> Any:
    if not isinstance(raw, dict):
        raise DeviceError(f"{path}: {section}", "must be a table", f"Write it as [{section}]")
    kind = (_SECTIONS | _OPTIONAL_SECTIONS)[section]
    declared = {field.name: field for field in fields(kind)}
    _refuse_unknown(raw, list(declared), f"{section}.", path)
    values = {}
    for name, field in declared.items():
        if name in raw:
            values[name] = _check_value(f"{section}.{name}", str(field.type), raw[name], path)
        elif field.default is MISSING:
            raise DeviceError(f"{path}: {section}.{name}", "is missing", "Every profile needs it")
    return kind(**values)


def _read_table(raw: Any, path: Path | Traversable) -> LatencyTableProfile:
    table: LatencyTableProfile = _read_section("latency_table", raw, path)
    if list(table.channels) != sorted(table.channels):
        raise DeviceError(f"{path}: latency_table.channels", "must be ascending", "Sort them, and ms_per_gmac alike")
    if len(table.channels) != len(table.ms_per_gmac):
        what = f"has {len(table.ms_per_gmac)} values, and latency_table.channels has {len(table.channels)}"
        raise DeviceError(f"{path}: latency_table.ms_per_gmac", what, "Give one per channel count")
    return table


def _refuse_unknown(raw: dict[str, Any], known: list[str], prefix: str, path: Path | Traversable) -> None:
    for key in raw:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            hint = f"Did you mean '{prefix}{near[0]}'?" if near else f"Known: {', '.join(known)}"
            raise DeviceError(f"{path}: {prefix}{key}", "is not a key of a profile", hint)


def _check_value(key: str, annotation: str, value: Any, path: Path | Traversable) -> Any:
    if not annotation.startswith("tuple"):
        return _check_scalar(key, annotation, value, f"{path}: {key}")
    if not isinstance(value, list) or not value:
        raise DeviceError(f"{path}: {key}", "must be a list with at least one value", f"Write {key} = [...]")
    items = tuple(_check_scalar(key, annotation, item, f"{path}: {key}") for item in value)
    twice = next((item for index, item in enumerate(items) if item in items[:index]), None)
    if twice is not None and key not in _MAY_REPEAT:
        raise DeviceError(f"{path}: {key}", f"holds {twice!r} twice", "Remove one")
    return items


def _check_scalar(key: str, annotation: str, value: Any, where: str) -> Any:
    wanted = next((name for name in _SCALARS if name in annotation and key not in _CHOICES), "str")
    if isinstance(value, bool) != (wanted == "bool") or not isinstance(value, _SCALARS[wanted]):
        raise DeviceError(where, f"must be of type {wanted}, not {_shown(value)}", f"Write {_EXAMPLES[wanted]}")
    if isinstance(value, str):
        _check_text(key, value, where)
    elif not isinstance(value, bool):
        _check_number(key, value, where)
    return value


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.80}"
    except ValueError:
        # Python writes no integer of more than 4300 digits.
        return "so long a number"


def _check_number(key: str, value: float, where: str) -> None:
    # Written so that "not a number" fails too.
    if not (0 < value <= _HIGHEST or (value == 0 and key in _MAY_BE_ZERO)):
        lowest = "0 or more" if key in _MAY_BE_ZERO else "above 0"
        what = f"must be {lowest} and at most {_HIGHEST}, not {_shown(value)}"
        raise DeviceError(where, what, "Leave out what is unknown")


def _check_text(key: str, value: str, where: str) -> None:
    choices = _CHOICES.get(key)
    if choices and value not in choices:
        near = difflib.get_close_matches(value, choices, n=1, cutoff=0.4)
        hint = f"Did you mean '{near[0]}'?" if near else ""
        raise DeviceError(where, f"'{value:.80}' is not one of {', '.join(choices)}", hint)
    if not value.strip():
        raise DeviceError(where, "is empty", "Leave out what is unknown")
    if key in _PATTERNS and not re.fullmatch(_PATTERNS[key][0], value, re.ASCII):
        raise DeviceError(where, f"must be {_PATTERNS[key][1]}, not {value!r:.80}")
    if key in _EXPRESSIONS:
        try:
            re.compile(value)
        except (re.error, RecursionError, OverflowError) as cause:
            raise DeviceError(where, f"is not a regular expression ({cause})", "Escape special characters") from cause
