"""Where the time of a bundle's engine goes, measured here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from devices.trust.store import Trust


def layers_of_bundle(folder: Path, trust: Trust, most: int | None, waiting: Callable[[], None]) -> dict[str, object]:
    """Verify a deploy bundle and time its engine layer by layer; `waiting` is called while another measures.

    The table that is printed holds the `most` longest layers; the JSON holds all. Raises `BundleError`, `DeviceError`.
    """
    from devices.agent_bench import read_built_info
    from devices.bundle import open_bundle
    from devices.classifier import engine_path
    from devices.detect import detect_host
    from devices.latency import measuring_alone, pinned
    from devices.layer_times import layer_lines, measure_layers

    bundle = open_bundle(folder, "deploy", trust)
    info, host = read_built_info(bundle), detect_host()
    content = bundle.read(engine_path(info))
    with measuring_alone(waiting), pinned(info.threads):
        times = measure_layers(content, info, host)
    manifest = bundle.manifest
    return {
        "bundle": str(folder),
        "name": manifest.get("name"),
        "device": manifest.get("device"),
        "engine": manifest.get("engine"),
        "size_bytes": len(content),
        "host": host.as_dict(),
        "table": layer_lines(times, most),
        **times.as_dict(),
    }
