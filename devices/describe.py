"""Profiles and hosts in words."""

from __future__ import annotations

from dataclasses import fields

from devices.detect import Host, matches
from devices.profile import Profile, load_profile, profile_names

_SECTIONS = ("engine", "session", "pruning", "measure", "hardware", "latency_table", "recognise")


def profile_lines(profile: Profile) -> list[str]:
    """A profile, value by value, with where each is from. What is not known is not shown."""
    lines = [f"{profile.name}: {profile.title} ({profile.kind})"]
    for section in _SECTIONS:
        part = getattr(profile, section)
        if part is None:
            continue
        # Of a session only what differs: a device of TensorRT has none.
        rows = [
            (field.name, getattr(part, field.name))
            for field in fields(part)
            if section != "session" or getattr(part, field.name) != field.default
        ]
        known = [(name, value) for name, value in rows if value is not None and value != ()]
        if known:
            lines += ["", f"[{section}]"]
        for name, value in known:
            source = profile.sources.get(f"{section}.{name}", profile.sources.get(section, ""))
            text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            lines.append(f"  {name:20} {text:24} {source}".rstrip())
    return lines


def host_lines(host: Host) -> list[str]:
    """A host, and which profiles describe it."""
    names = [name for name in profile_names() if matches(load_profile(name), host)]
    memory = f"{host.memory_bytes / 1e9:.1f} GB" if host.memory_bytes else "unknown"
    runtimes = ", ".join(f"{name} {version}" for name, version in host.runtimes.items())
    rows = [
        ("profiles", ", ".join(names) or "none matches"),
        ("processor", f"{host.cpu_model}, {host.machine}, {host.cpu_isa}{' with VNNI' if host.cpu_has_vnni else ''}"),
        ("CPUs", str(host.cpus)),
        ("memory", memory),
        ("board", host.device_tree_model or "not a board with a device tree"),
        ("GPUs", ", ".join(host.gpus) or "none found by nvidia-smi"),
        ("engine runtimes", runtimes or "none installed"),
        ("system", f"{host.system}, Python {host.python}"),
    ]
    return [f"{name:16} {text}" for name, text in rows]
