"""The threat report: threat by threat, what was tried, on what, at what budget, what came of it, and what it hides.

Every figure is of harm: more is worse. Before and after compression it is of the same images, with paired intervals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from devices.bundle import Bundle
from devices.errors import BundleError
from devices.queries.plan import QueryAttack
from devices.scoring import Scoring, kind_of
from devices.statistics import Interval
from pipeline.engine_plan import in_order
from pipeline.threats.edge.record import Change, Figure, Threat
from pipeline.threats.scan.findings import table_lines
from pipeline.threats.steady import without_unsteady

FORMAT = "espalier-threats/1"
THREATS_FILE = "threats.json"
_KEYS = {"name", "tried", "budget", "figures", "not_shown", "of", "lines"}
_Json = Mapping[str, Any]


def threat_report(
    attacked: _Json,
    baseline: str,
    adversarial: Sequence[_Json],
    scans: Sequence[_Json],
    threats: Sequence[_Json],
) -> list[dict[str, Any]]:
    """Everything that was tried, as JSON values; what was not tried is not in it.

    `attacked` is what the attack stage measured, `adversarial` what its sets are; `scans` and `threats` are the metrics
    of the steps that looked for backdoors and of those that tried threats of small devices.
    """
    found = [_evasion(attacked, baseline, adversarial), _queries(attacked, baseline)]
    told = [threat.as_dict() | {"lines": []} for threat in found if threat is not None]
    if scans:
        told.append(_backdoors(scans))
    steady = without_unsteady(threats, attacked, baseline)
    return [*told, *(dict(threat) | {"lines": []} for threat in steady)]


def read_threats(evidence: Bundle) -> list[dict[str, Any]]:
    """The report in verified evidence; nothing where the run is of before there was one. Raises `BundleError`."""
    if THREATS_FILE not in evidence.digests:
        return []
    content = evidence.read_json(THREATS_FILE)
    threats = content.get("threats") if isinstance(content, dict) and content.get("format") == FORMAT else None
    if not isinstance(threats, list) or not all(
        isinstance(threat, dict) and set(threat) >= _KEYS for threat in threats
    ):
        where = str(evidence.folder / THREATS_FILE)
        raise BundleError(where, f"is not a threat report of format {FORMAT!r}", "Make the evidence bundle again")
    return threats


def _evasion(attacked: _Json, baseline: str, adversarial: Sequence[_Json]) -> Threat | None:
    if not adversarial:
        return None
    noun = Scoring(kind=kind_of(attacked.get("task"))).noun
    figures = [
        Figure(
            artifact=name,
            setting="worst case of all sets, and of queries where they were asked",
            measure="images answered wrong" if noun == "accuracy" else f"{noun} that is missing to 1",
            interval=_harm(engine["robust"]),
            samples=int(attacked["samples"]),
            changes=_changes(name, baseline, engine["robust"]["difference"]),
        )
        for name, engine in _engines(attacked)
        if engine["robust"]
    ]
    norms = "/".join(sorted({str(info["norm"]) for info in adversarial}))
    return Threat(
        name="evasion",
        tried=f"Each image changed by {' and by '.join(_means(adversarial))}",
        budget=f"ε = {max(float(info['epsilon']) for info in adversarial):.4g} ({norms})",
        figures=tuple(figures),
        not_shown=(
            "Stronger or better fitted attacks may do more: harm here is a lower bound.",
            "Images with a larger or another kind of change were not tried.",
        ),
        of="graph" if attacked.get("of") == "graph" else "engine",
    )


def _queries(attacked: _Json, baseline: str) -> Threat | None:
    rows = [(name, row) for name, engine in _engines(attacked) for row in engine.get("queries") or ()]
    if not rows:
        return None
    figures = [
        Figure(
            artifact=name,
            setting=str(row["method"]),
            measure="images answered wrong",
            interval=_harm(row),
            samples=int(row["samples"]),
            changes=_changes(name, baseline, row["difference"]),
        )
        for name, row in rows
    ]
    first = rows[0][1]
    return Threat(
        name="queries",
        tried="Each image changed by an attacker who only asks the engine",
        budget=f"ε = {float(first['epsilon']):.4g} ({first['norm']}), at most {int(first['budget']):,} queries each",
        figures=tuple(figures),
        not_shown=("Fewer images fooled than by gradients says that queries are weak, not that the engine is strong.",),
    )


def _means(adversarial: Sequence[_Json]) -> list[str]:
    """What the sets were made by. Square sees no gradient: it asks the network again and again."""
    found = []
    for means, asks in (("gradients", False), ("random search with queries", True)):
        methods = [
            f"{info['method']} through {info['surrogate']}"
            for info in adversarial
            if (info["method"] in get_args(QueryAttack)) == asks
        ]
        found += [f"{means}: {', '.join(dict.fromkeys(methods))}"] if methods else []
    return found


def _backdoors(scans: Sequence[_Json]) -> dict[str, Any]:
    findings = [finding for scan in scans for finding in scan["findings"]]
    threat = Threat(
        name="backdoor",
        tried="Signs of a backdoor, without knowing the trigger: "
        + ", ".join(dict.fromkeys(str(finding["method"]) for finding in findings)),
        budget="clean test images alone",
        figures=tuple(_signs(scans)),
        not_shown=("No sign is no proof: triggers that these methods do not look for stay unseen.",),
    )
    return threat.as_dict() | {"lines": table_lines([dict(finding) for finding in findings])}


def _signs(scans: Sequence[_Json]) -> Iterator[Figure]:
    """The index of each method on each network, against that of the first network; and what a stage woke.

    An index has no interval; the gap between a network and the one before has a paired one.
    """
    first: dict[str, _Json] = {}
    for scan in scans:
        for finding in scan["findings"]:
            method, network, value = str(finding["method"]), str(finding["network"]), float(finding["value"])
            gap = finding["detail"].get("gap")
            if gap is not None:
                before = str(finding["detail"]["before"])
                yield Figure(
                    artifact=network,
                    setting=f"trigger of class '{finding['class_name']}', the one that gained most",
                    measure=f"clean images that it turns, more than on {before}",
                    interval=Interval(gap["value"], gap["low"], gap["high"]),
                    samples=int(scan["samples"]),
                    role="told",
                )
                continue
            old = first.setdefault(method, finding)
            gained = value - float(old["value"])
            changes = (Change(str(old["network"]), Interval(gained, gained, gained)),) if old is not finding else ()
            yield Figure(
                artifact=network,
                setting=_flagged(finding),
                measure=f"{method}: {finding['statistic'].rstrip(',')}",
                interval=Interval(value, value, value),
                samples=int(scan["samples"]),
                unit="index",
                role="told" if finding["threshold"] is None else "judged",
                changes=changes,
            )


def _flagged(finding: _Json) -> str:
    if finding["threshold"] is None:
        return "told, not judged"
    limit = f"threshold {finding['threshold']:.3g}"
    return f"a sign, class '{finding['class_name']}' ({limit})" if finding["sign"] else f"no sign ({limit})"


def _engines(attacked: _Json) -> list[tuple[str, _Json]]:
    """Those that are scored: one that answers at random is not."""
    engines = attacked["engines"]
    return [(name, engines[name]) for name in in_order(engines) if engines[name].get("clean", True)]


def _harm(accuracy: _Json) -> Interval:
    """From an accuracy to the share wrong, whose interval is turned round."""
    return Interval(1 - accuracy["value"], 1 - accuracy["high"], 1 - accuracy["low"])


def _changes(name: str, baseline: str, gained: _Json | None) -> tuple[Change, ...]:
    return (Change(baseline, _lost(gained)),) if gained and name != baseline else ()


def _lost(gained: _Json) -> Interval:
    # `0.0 -` and not `-`: nothing lost is 0, not -0.
    return Interval(0.0 - gained["value"], 0.0 - gained["high"], 0.0 - gained["low"])
