"""What a device profile holds: sections of typed values, each with its unit in its name. Absent means unknown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from devices.profile_session import SessionProfile

Kind = Literal["cpu", "jetson", "gpu"]
Runtime = Literal["onnxruntime", "tensorrt", "tensorrt_rtx"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
Activations = Literal["unsigned", "signed"]
ServedBy = Literal["agent", "trtexec"]


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
    versions: tuple[str, ...] = ()
    """Versions of the runtime that the device is served with, oldest first: what is listed here holds for the first."""
    jetpack: tuple[str, ...] = ()
    """Releases of JetPack that bring them."""
    served_by: ServedBy = "agent"
    """What works on the device: the agent (Python 3.10), or TensorRT's own command over ssh where Python is older."""
    workspace_mb: int | None = None
    """Most scratch memory in MiB that a build may take. Absent: all that the device has."""


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

    power_mode: str | None = None
    """Name of the nvpmodel mode, on a Jetson, that the rates are of."""
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
    runtime: str | None = None
    """Distribution of the engine runtime that must be installed, where another one runs other engines."""


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
    based_on: str | None = None
    """Shipped profile whose values hold where this one has none: the same board in another mode, or its sibling."""
    engine: EngineProfile
    pruning: PruningProfile
    measure: MeasureProfile
    hardware: HardwareProfile
    recognise: RecogniseProfile
    session: SessionProfile
    latency_table: LatencyTableProfile | None = None
    """Absent where nobody measured it."""
    sources: dict[str, str]
    """Where each value is from, by its dotted name or its section's."""
