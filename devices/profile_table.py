"""All profiles at a glance: for a terminal, and as the table of the documentation."""

from __future__ import annotations

from collections.abc import Collection

from devices.describe import RUNTIME_TITLES
from devices.profile import Kind, Profile, load_profile, profile_names

_GROUPS: tuple[tuple[Kind, str], ...] = (("cpu", "CPUs"), ("jetson", "Jetson boards"), ("gpu", "GPUs"))
_FIGURES = (
    ("SM", "sm_count"),
    ("GPU MHz", "gpu_clock_mhz"),
    ("INT8 TOPS", "int8_tops"),
    ("FP16 TFLOPS", "fp16_tflops"),
    ("FP8 TFLOPS", "fp8_tflops"),
    ("FP32 TFLOPS", "fp32_tflops"),
    ("GB/s", "bandwidth_gb_s"),
    ("L2 MB", "l2_cache_mb"),
    ("memory GB", "memory_gb"),
    ("DLA", "dla_cores"),
    ("compute capability", "compute_capability"),
)


def list_lines(here: Collection[str]) -> list[str]:
    """Profiles in groups, one a line; `here` names those that this host is taken for."""
    lines: list[str] = []
    profiles = _profiles()
    for kind, title in _GROUPS:
        lines += ["", title] if lines else [title]
        for profile in (profile for profile in profiles if profile.kind == kind):
            mark = "  (this host)" if profile.name in here else ""
            of = f"{profile.title}; {_engine(profile)}; {' '.join(profile.engine.precisions)}"
            lines.append(f"  {profile.name:27} {of}{mark}")
    return lines


def markdown_lines() -> list[str]:
    """A table of hardware and one of engines, of all profiles.

    A figure by formula stands behind '=', one from memory before '?'; one that is not known is empty.
    """
    profiles = _profiles()
    with_rates = [profile for profile in profiles if profile.kind != "cpu"]
    heads = ["profile", *(head for head, _ in _FIGURES)]
    lines = _table(heads, [[profile.name, *(_figure(profile, key) for _, key in _FIGURES)] for profile in with_rates])
    heads = ["profile", "device", "engine", "served by", "highest opset", "precisions", "channel step"]
    rows = [
        [
            profile.name,
            profile.title,
            _engine(profile).removesuffix(", trtexec"),
            profile.engine.served_by,
            str(profile.engine.max_opset),
            ", ".join(profile.engine.precisions),
            str(profile.pruning.channel_step),
        ]
        for profile in profiles
    ]
    return [*lines, "", *_table(heads, rows)]


def _profiles() -> list[Profile]:
    """By group, then by name."""
    order = [kind for kind, _ in _GROUPS]
    return sorted(map(load_profile, profile_names()), key=lambda profile: order.index(profile.kind))


def _engine(profile: Profile) -> str:
    engine = profile.engine
    parts = [RUNTIME_TITLES[engine.runtime]]
    if engine.versions:
        parts.append(" to ".join(dict.fromkeys((engine.versions[0], engine.versions[-1]))))
    if engine.jetpack:
        parts.append(f"(JetPack {' to '.join(dict.fromkeys((engine.jetpack[0], engine.jetpack[-1])))})")
    return " ".join(parts) + (", trtexec" if engine.served_by == "trtexec" else "")


def _figure(profile: Profile, key: str) -> str:
    value = getattr(profile.hardware, key)
    if value is None:
        return ""
    source = profile.sources.get(f"hardware.{key}", profile.sources.get("hardware", ""))
    return f"={value}" if source.startswith("by formula") else f"{value}?" if "not checked" in source else str(value)


def _table(heads: list[str], rows: list[list[str]]) -> list[str]:
    return [_row(heads), "|---" * len(heads) + "|", *map(_row, rows)]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
