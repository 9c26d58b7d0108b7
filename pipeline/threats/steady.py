"""Figures of engines that answer at random mean nothing: what is left without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_Json = Mapping[str, Any]


def without_unsteady(threats: Sequence[_Json], attacked: _Json, baseline: str) -> list[_Json]:
    """Threats of small devices without figures that an engine's random answers decide; each threat says so.

    `attacked` is what the attack stage measured, `baseline` an engine such as `dense-fp32`. What was judged on graphs
    is left as it is where engines were asked.
    """
    engines = attacked.get("engines", {})
    random = sorted(name for name, engine in engines.items() if not engine.get("clean", True))
    of = attacked.get("of", "engine")
    precision = baseline.rpartition("-")[2]
    return [_steady(threat, random, precision) if random and threat["of"] == of else threat for threat in threats]


def _steady(threat: _Json, random: Sequence[str], precision: str) -> _Json:
    def decided_by(artifact: str) -> set[str]:
        # What INT8 alone gets wrong is as much the float engine's answer.
        parent = f"{artifact.partition('-')[0]}-{precision}"
        return {artifact, parent} if threat["name"] == "differential" else {artifact}

    left: list[_Json] = []
    unknown: set[str] = set()
    for figure in threat["figures"]:
        known = [change for change in figure["changes"] if decided_by(change["before"]).isdisjoint(random)]
        befores = {name for change in figure["changes"] for name in decided_by(change["before"])}
        unknown |= (decided_by(figure["artifact"]) | befores) & set(random)
        if decided_by(figure["artifact"]).isdisjoint(random):
            left.append({**figure, "changes": known})
    said = tuple(f"{name} answers at random, so no figure that it decides is here." for name in sorted(unknown))
    return {**threat, "figures": left, "not_shown": [*said, *threat["not_shown"]]}
