"""What this host is: processor, memory, board, GPU and engine runtimes. Standard library only."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from devices.files import digest_value
from devices.profile import Profile, RecogniseProfile
from devices.telemetry.nvml import Gpu, list_gpus, load_nvml
from devices.telemetry.power_mode import read_power_mode

# Of what is sold as so many GB: a board's system keeps up to a quarter for itself, a GPU's driver next to nothing.
_LEAST_OF_BOARD_MEMORY, _LEAST_OF_GPU_MEMORY = 0.7, 0.85
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "tensorrt", "tensorrt-rtx")


@dataclass(frozen=True, kw_only=True)
class Host:
    """A machine, as far as it decides which engines run on it and how fast."""

    machine: str
    system: str
    cpu_model: str
    cpu_isa: str
    """Widest vector extension: it decides the layout of an optimized ONNX Runtime engine."""
    cpu_has_vnni: bool
    cpus: int
    memory_bytes: int | None
    device_tree_model: str | None
    gpus: tuple[str, ...]
    python: str
    runtimes: dict[str, str]
    """Version by distribution, of the engine runtimes that are installed."""
    gpu_details: tuple[Gpu, ...] = ()
    """The same GPUs with memory and compute capability; empty where NVIDIA's management library is missing."""
    power_mode: str | None = None
    """Name of a Jetson's nvpmodel mode."""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    @property
    def engine_class(self) -> str:
        """Hosts of one class run each other's optimized CPU engines."""
        return f"{self.machine}-{self.cpu_isa}{'-vnni' if self.cpu_has_vnni else ''}"

    @property
    def saturates_int8(self) -> bool:
        """Whether products of 8-bit values overflow 16 bits in its fastest instruction (x86 before VNNI)."""
        return self.machine == "x86_64" and not self.cpu_has_vnni

    @property
    def fingerprint(self) -> str:
        """Changes when measurements have to be taken again."""
        return digest_value(self.as_dict() | {"node": platform.node()})


def detect_host() -> Host:
    """Look at this machine. Takes a few ms, up to 5 s more where `nvidia-smi` or `nvpmodel` is slow to answer."""
    flags, model = _cpu_info()
    board, details = _device_tree_model(), list_gpus(load_nvml())
    return Host(
        machine=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        cpu_model=model,
        cpu_isa=_isa(flags),
        cpu_has_vnni=bool(flags & {"avx512_vnni", "avx_vnni", "asimddp"}),
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=_memory_bytes(),
        device_tree_model=board,
        gpus=tuple(gpu.name for gpu in details) or _names_by_command(),
        python=platform.python_version(),
        runtimes=_runtimes(),
        gpu_details=details,
        power_mode=_power_mode() if board else None,
    )


def matches(profile: Profile, host: Host) -> bool:
    """Whether the host is, or holds, the device that the profile describes, in whatever power mode.

    Several profiles can match: a Jetson, or a computer with a GPU, is also a CPU, whose engines it builds and measures.
    `devices.recognise` says which of them the host is taken for.
    """
    rule = profile.recognise
    if rule == RecogniseProfile() or (rule.machine and host.machine not in rule.machine):
        return False
    if rule.runtime is not None and rule.runtime not in host.runtimes:
        return False
    if rule.device_tree_model is not None:
        model = host.device_tree_model
        if model is None or not re.search(rule.device_tree_model, model) or not _board_memory_fits(profile, host):
            return False
    return rule.gpu_name is None or any(gpu_matches(profile, gpu) for gpu in gpus_of(host))


def gpus_of(host: Host) -> tuple[Gpu, ...]:
    """The GPUs of a host, with what is known of each."""
    return host.gpu_details or tuple(Gpu(name=name) for name in host.gpus)


def gpu_matches(profile: Profile, gpu: Gpu) -> bool:
    """Whether a GPU has the profile's name, and compute capability and memory where both are known.

    Cards of one name are sold with 6 or 12 GB, 8 or 12 GB.
    """
    hardware, name = profile.hardware, profile.recognise.gpu_name
    if name is None or not re.search(name, gpu.name):
        return False
    known = {hardware.compute_capability, gpu.compute_capability} - {None}
    if len(known) > 1:
        return False
    return _fits(gpu.memory_bytes, hardware.memory_gb, _LEAST_OF_GPU_MEMORY)


def _board_memory_fits(profile: Profile, host: Host) -> bool:
    """Boards of one model name are sold with 4 or 8, 32 or 64 GB."""
    return _fits(host.memory_bytes, profile.hardware.memory_gb, _LEAST_OF_BOARD_MEMORY)


def _fits(memory_bytes: int | None, memory_gb: float | None, least: float) -> bool:
    return memory_gb is None or memory_bytes is None or least <= memory_bytes / (memory_gb * 1e9) <= 1.2


def _cpu_info() -> tuple[set[str], str]:
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return set(), platform.processor() or "unknown"
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    model = re.search(r"^(?:model name|Hardware|Processor)\s*:\s*(.*)$", text, re.MULTILINE)
    return set(flags.group(1).split()) if flags else set(), model.group(1) if model else "unknown"


def _isa(flags: set[str]) -> str:
    for flag, name in (("avx512f", "avx512"), ("avx2", "avx2"), ("avx", "avx"), ("sse2", "sse2")):
        if flag in flags:
            return name
    return "sve" if "sve" in flags else "neon" if "asimd" in flags else "unknown"


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _device_tree_model() -> str | None:
    try:
        return Path("/proc/device-tree/model").read_text(errors="replace").strip("\0\n ") or None
    except OSError:
        return None


def _power_mode() -> str | None:
    mode = read_power_mode(Path("/"))
    return mode.name if mode else None


def _names_by_command() -> tuple[str, ...]:
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, errors="replace", timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    names = (line.strip() for line in done.stdout.splitlines())
    return tuple(name for name in names if name) if done.returncode == 0 else ()


def _runtimes() -> dict[str, str]:
    found = {}
    for name in _RUNTIMES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
