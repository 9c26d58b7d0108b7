"""What `espalier-agent` prints of its results, where JSON is not asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from devices.agent_config import decode
from devices.describe import host_lines
from devices.detect import Host


def attack_text(result: dict[str, Any]) -> str:
    """Accuracy by set, clean and in the worst case, each with its 95 % interval; of segmentation mean IoU,
    of detection mean average precision."""
    # Here, because it loads numpy, and `detect` has no use for that.
    from devices.scoring import Scoring, kind_of

    if result["clean"] is None:
        unknown = result["masking"]["words"]
        return "\n".join([title_of(result), f"  {result['samples']} samples; the engine {unknown}"])
    noun = Scoring(kind=kind_of(result.get("task"))).noun
    rows = [("clean", result["clean"], "")]
    rows += [(row["name"], row, _origin_of(row)) for row in result["sets"] if row["kind"] != "clean"]
    asked = result.get("queries") or []
    names = [*(name for name, _, _ in rows), *(_plain(row["method"]) for row in asked), "worst case"]
    width = max(map(len, names)) + 2
    lines = [title_of(result), f"  {result['samples']} samples; {noun} in %, with its 95 % interval"]
    lines += [f"  {name:{width}}{_percent(share)}  {origin}".rstrip() for name, share, origin in rows]
    for key, name in (("mean_iou", "mean IoU"), ("mean_ap", "mean AP")):
        if result.get(key):
            lines.append(f"  {name:{width}}{_percent(result[key])}  of the clean images, over classes")
    for row in asked:
        origin = f"at most {row['budget']} queries each on {row['samples']} samples, {_ball(row)}"
        lines.append(f"  {_plain(row['method']):{width}}{_percent(row)}  {origin}")
    if result["worst_case"] is None:
        lines.append(f"  {'worst case':{width}}unknown: the evidence holds no adversarial set")
    else:
        lines.append(f"  {'worst case':{width}}{_percent(result['worst_case'])}  {_worst_meaning(noun, bool(asked))}")
    if result.get("masking"):
        lines.append(f"  {result['masking']['words']}")
    return "\n".join(lines)


def _worst_meaning(noun: str, asked: bool) -> str:
    if noun != "accuracy":
        return "the least of the clean image's and every adversarial one's, image by image"
    if asked:
        return "right on the clean image, on every adversarial one and under queries"
    return "right on the clean image and on every adversarial one"


def layers_text(result: dict[str, Any]) -> str:
    """Layers, kernels and what no layer accounts for."""
    return "\n".join([title_of(result), *(f"  {_plain(line, 160)}" for line in result["table"])])


def detect_text(result: dict[str, Any]) -> str:
    """The host and the profiles that match it."""
    return "\n".join(host_lines(decode(Host, result["host"], "host")))


def build_text(result: dict[str, Any]) -> str:
    """What was built, for what, and where it lies."""
    engine = result["engine"]
    built = f"{engine['runtime']} {engine['runtime_version']}"
    line = f"{result['folder']}: {result['size_bytes']} bytes for {_plain(result['device'])}, built by {built}"
    return "\n".join([line, *map(_plain, result.get("lines", ()))])


def calibrate_text(result: dict[str, Any]) -> str:
    """Time of every probe, with its 95 % interval."""
    rows = result["probes"]
    width = max(map(len, rows)) + 2
    lines = [f"{len(rows)} probes as {_plain(result['device'])}, one image each; median in ms, with its 95 % interval"]
    for name, row in rows.items():
        figure = row["p50_ms"]
        shown = f"{figure['value']:.4f}  ({figure['low']:.4f} to {figure['high']:.4f})"
        lines.append(f"  {_plain(name):{width}}{shown}")
    return "\n".join(lines)


def clean_text(result: dict[str, Any]) -> str:
    """What was removed."""
    return f"{result['cache']}: {result['removed_bytes']} bytes removed"


def title_of(result: Mapping[str, Any]) -> str:
    """Whose figures they are: the bundle's name and device, and the host."""
    return f"{_plain(result['name'])} for {_plain(result['device'])}, on {result['host']['cpu_model']}"


def _plain(value: object, most: int = 80) -> str:
    """A text from a manifest, which may hold anything, without line breaks or codes for the terminal."""
    return "".join(char for char in str(value) if char.isprintable())[:most]


def _percent(share: dict[str, float]) -> str:
    return f"{100 * share['value']:6.2f}  ({100 * share['low']:.2f} to {100 * share['high']:.2f})"


def _ball(row: Any) -> str:
    return f"\u03b5 = {row['epsilon']:g}" + (" (L2)" if row.get("norm") == "l2" else "")


def _origin_of(row: dict[str, Any]) -> str:
    if row["kind"] == "adversarial":
        used = "queries" if row["method"] == "square" else "gradients"
        ball = _ball(row)
        form = ", as bytes" if row.get("rounded") else ""
        return _plain(f"{row['method']} by the {used} of {row['surrogate']}, {ball}{form}")
    return _plain(f"{row['method']}, strength {row['strength']}")
