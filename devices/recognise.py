"""Which profiles a host is taken for, and why."""

from __future__ import annotations

from dataclasses import dataclass

from devices.detect import Host, gpu_matches, gpus_of, matches
from devices.profile import Profile, load_profile, profile_names
from devices.telemetry.power_mode import same_mode


@dataclass(frozen=True)
class Recognised:
    """A profile that the host is taken for."""

    profile: Profile
    reasons: tuple[str, ...]
    """What of the host it was known by."""
    remarks: tuple[str, ...]
    """What else is to be known: another power mode, profiles of the same device."""


def recognise(host: Host, profiles: tuple[Profile, ...] | None = None) -> tuple[Recognised, ...]:
    """The profiles that describe the host, one for each device in it: its CPU, and its board or its GPUs.

    Profiles that are based on one another are the same device. Of these it is the one whose power mode the host is in,
    else the one that the others are based on. None: of all profiles that ship.
    """
    known = tuple(map(load_profile, profile_names())) if profiles is None else profiles
    fitting = [profile for profile in known if matches(profile, host)]
    names = {profile.name for profile in fitting}
    found = []
    for first in fitting:
        if first.based_on in names:
            continue
        family = [first, *(profile for profile in fitting if profile.based_on == first.name)]
        chosen = next((profile for profile in family if _in_mode(profile, host)), first)
        others = tuple(profile for profile in family if profile is not chosen)
        found.append(Recognised(chosen, _reasons(chosen, host), _remarks(chosen, others, host)))
    return tuple(found)


def _in_mode(profile: Profile, host: Host) -> bool:
    mode = profile.hardware.power_mode
    return mode is not None and host.power_mode is not None and same_mode(mode, host.power_mode)


def _reasons(profile: Profile, host: Host) -> tuple[str, ...]:
    rule, found = profile.recognise, []
    if rule.device_tree_model is not None:
        found.append(f"its device tree says '{host.device_tree_model}'")
        if profile.hardware.memory_gb is not None and host.memory_bytes is not None:
            found.append(f"{host.memory_bytes / 1e9:.1f} GB of memory")
    if rule.gpu_name is not None:
        for gpu in gpus_of(host):
            if gpu_matches(profile, gpu):
                found.append(gpu_text(gpu.name, gpu.compute_capability, gpu.memory_bytes))
    if rule.runtime is not None:
        found.append(f"{rule.runtime} {host.runtimes[rule.runtime]}")
    if _in_mode(profile, host):
        found.append(f"power mode {host.power_mode}")
    return tuple(found) or (f"processor of {host.machine}",)


def gpu_text(name: str, capability: str | None, memory_bytes: int | None) -> str:
    """A GPU in words."""
    parts = [f"GPU '{name}'"]
    if capability is not None:
        parts.append(f"compute capability {capability}")
    if memory_bytes is not None:
        parts.append(f"{memory_bytes / 1e9:.1f} GB")
    return ", ".join(parts)


def other_mode(profile: Profile, host: Host) -> str | None:
    """What is to be said when a board is in another power mode than the profile's rates are of. None: nothing."""
    mode = profile.hardware.power_mode
    if mode is None or host.device_tree_model is None or _in_mode(profile, host):
        return None
    said = "the board does not tell its own" if host.power_mode is None else f"the board is in {host.power_mode}"
    return f"the rates of {profile.name} are of power mode {mode}, and {said}"


def _remarks(profile: Profile, others: tuple[Profile, ...], host: Host) -> tuple[str, ...]:
    remark = other_mode(profile, host)
    found = [] if remark is None else [remark]
    for other in others:
        mode = other.hardware.power_mode
        found.append(f"{other.name} is the same in power mode {mode}" if mode else f"{other.name} describes it too")
    return tuple(found)
