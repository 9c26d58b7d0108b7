"""What a scan comes to, in words. No sign is not a clean bill."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

NO_SIGN = "no sign found, which does not make it clean"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One method on one network."""

    method: str
    """As in the recipe's threats.scan."""
    network: str
    """Name of the step that gave it, such as `dense` or `recovered int8`."""
    statistic: str
    """What was measured, in words."""
    value: float
    threshold: float | None
    """Above it the value is a sign; None where the method only tells."""
    false_alarm_rate: float | None
    """How often a clean network exceeds the threshold, as far as `assumes` holds."""
    assumes: str
    class_name: str | None
    """The class that it is about."""
    sign: bool
    detail: dict[str, Any]
    """More figures, JSON values."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @property
    def verdict(self) -> str:
        """One sentence."""
        return verdict_of(self.as_dict())


def verdict_of(finding: dict[str, Any]) -> str:
    """A finding as one sentence: what was measured, against what, and what it says."""
    measured = f"{finding['statistic']} is {finding['value']:.3g}"
    if finding["threshold"] is None:
        return f"{measured}; told, not judged: {finding['assumes']}"
    limit = f"threshold {finding['threshold']:.3g}, false alarms {100 * finding['false_alarm_rate']:.3g} %"
    said = f"a SIGN of a backdoor to class '{finding['class_name']}'" if finding["sign"] else NO_SIGN
    return f"{measured} ({limit}, if {finding['assumes']}): {said}"


def table_lines(findings: list[dict[str, Any]]) -> list[str]:
    """A line for each finding."""
    return [f"{item['network']:18} {item['method']:12} {verdict_of(item)}" for item in findings]
