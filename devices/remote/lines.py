"""What boards say, in words."""

from __future__ import annotations

from devices.describe import host_lines
from devices.profile import Profile
from devices.recognise import other_mode
from devices.remote.result import BoardFacts, BoardResult


def facts_lines(name: str, profile: Profile, facts: BoardFacts) -> list[str]:
    """A board: what it is, whether it is the device it is said to be, and how it stands."""
    is_it = "is" if facts.matches else "is NOT"
    lines = [f"board '{name}' {is_it} of profile '{profile.name}' ({profile.title})", *host_lines(facts.host)]
    lines.append(f"{'cache':16} {facts.cache}, {facts.free_bytes / 1e9:.1f} GB free")
    return [*lines, *(f"{'clock':16} {warning}" for warning in facts.clock.warnings)]


def result_lines(name: str, profile: Profile, result: BoardResult) -> list[str]:
    """What is to be known about a result from a board, beside its figures."""
    lines = [f"measured on board '{name}': {result.host.device_tree_model or result.host.cpu_model}"]
    if result.other_device:
        lines.append(f"  NOT a {profile.title}: it was forced, and says nothing about '{profile.name}'")
    remark = other_mode(profile, result.host)
    if remark is not None:
        lines.append(f"  {remark}; it was not switched")
    if result.reused:
        lines.append("  the board had the result already, from a run that was cut off")
    return [*lines, *(f"  {warning}" for warning in result.clock.warnings)]
