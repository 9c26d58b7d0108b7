"""Profiles and hosts in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields

from devices.detect import Host, gpus_of
from devices.profile import Profile, load_profile, profile_names
from devices.profile_values import unit_of
from devices.recognise import gpu_text, recognise

RUNTIME_TITLES = {"onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
_SECTIONS = ("engine", "session", "pruning", "measure", "hardware", "latency_table", "recognise")
_KINDS = {"cpu": "CPU", "jetson": "Jetson board", "gpu": "GPU"}


def profile_lines(profile: Profile) -> list[str]:
    """A profile, value by value, with where each is from; what serves it, and what is not known of it."""
    lines = [f"{profile.name}: {profile.title} ({_KINDS[profile.kind]})", f"  {served_text(profile)}"]
    if profile.based_on:
        lines.append(f"  based on {profile.based_on}")
    lines += [f"  {other.name}: {text}" for other, text in _siblings(profile)]
    for section in _SECTIONS:
        part = getattr(profile, section)
        if part is None:
            continue
        # An option of a session that is as usual is not told: a device of TensorRT has none.
        rows = [
            (field.name, getattr(part, field.name))
            for field in fields(part)
            if section != "session" or field.default is MISSING or getattr(part, field.name) != field.default
        ]
        known = [(name, value) for name, value in rows if value is not None and value != ()]
        if known:
            lines += ["", f"[{section}]"]
        for name, value in known:
            source = profile.sources.get(f"{section}.{name}", profile.sources.get(section, ""))
            lines.append(f"  {name:20} {_shown(f'{section}.{name}', value):24} {source}".rstrip())
    unknown = unknown_rates(profile)
    if unknown:
        lines += ["", f"unknown: {', '.join(unknown)}"]
    return lines


def served_text(profile: Profile) -> str:
    """By what engines for the device are built and run, in words."""
    engine = profile.engine
    runtime = " ".join([RUNTIME_TITLES[engine.runtime], ", ".join(engine.versions)]).strip()
    of_jetpack = f" of JetPack {', '.join(engine.jetpack)}" if engine.jetpack else ""
    if engine.served_by == "trtexec":
        return f"{runtime}{of_jetpack}, by its command trtexec over ssh: the agent does not run there"
    if engine.runtime == "tensorrt_rtx":
        return f"{runtime}, built ahead of time on any x86-64 host for compute capability " + str(
            profile.hardware.compute_capability
        )
    where = " on the device" if profile.kind != "cpu" else ""
    return f"{runtime}{of_jetpack}, built{where} by the agent"


def unknown_rates(profile: Profile) -> tuple[str, ...]:
    """Keys of the hardware that the profile does not know, of those that its kind has."""
    if profile.kind == "cpu":
        return ()
    precisions = profile.engine.precisions
    wanted = {
        "power_mode": profile.kind == "jetson",
        "dla_cores": profile.kind == "jetson",
        "int8_tops": "int8" in precisions,
        "fp8_tflops": "fp8" in precisions,
    }
    rows = [field.name for field in fields(profile.hardware) if wanted.get(field.name, True)]
    return tuple(name for name in rows if getattr(profile.hardware, name) is None)


def _siblings(profile: Profile) -> Iterator[tuple[Profile, str]]:
    """Shipped profiles of the same board in another power mode."""
    for name in profile_names():
        other = load_profile(name)
        mode = other.hardware.power_mode
        if other.based_on == profile.name and mode and mode != profile.hardware.power_mode:
            yield other, f"the same board in power mode {mode}"


def _shown(key: str, value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"{text} {unit_of(key)}".rstrip()


def host_lines(host: Host) -> list[str]:
    """A host, and which profiles describe it and why."""
    found = recognise(host)
    memory = f"{host.memory_bytes / 1e9:.1f} GB" if host.memory_bytes else "unknown"
    runtimes = ", ".join(f"{name} {version}" for name, version in host.runtimes.items())
    gpus = "; ".join(gpu_text(gpu.name, gpu.compute_capability, gpu.memory_bytes) for gpu in gpus_of(host))
    rows = [
        ("profiles", ", ".join(entry.profile.name for entry in found) or "none matches"),
        ("processor", f"{host.cpu_model}, {host.machine}, {host.cpu_isa}{' with VNNI' if host.cpu_has_vnni else ''}"),
        ("CPUs", str(host.cpus)),
        ("memory", memory),
        ("board", host.device_tree_model or "not a board with a device tree"),
        ("power mode", host.power_mode or "none that nvpmodel tells"),
        ("GPUs", gpus or "none found by NVIDIA's driver"),
        ("engine runtimes", runtimes or "none installed"),
        ("system", f"{host.system}, Python {host.python}"),
    ]
    lines = [f"{name:16} {text}" for name, text in rows]
    for entry in found:
        lines.append(f"taken for {entry.profile.name}: {'; '.join(entry.reasons)}")
        lines += [f"  {remark}" for remark in entry.remarks]
    return lines
