"""Bundles on the device: the shipped engine's latency, and its answers to the evaluation sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from devices.stage import Progress, no_progress


def bench_bundle(
    folder: Path, allow_unsigned: bool, seconds: float, waiting: Callable[[], None], progress: Progress = no_progress
) -> dict[str, object]:
    """Verify a deploy bundle and measure its engine here; `waiting` is called while another measures.

    Raises `BundleError`, `DeviceError`.
    """
    import tempfile

    import numpy as np

    from devices.bundle import open_bundle
    from devices.classifier import ENGINE_INFO_PATH, engine_path, load_verified, read_engine_info
    from devices.detect import detect_host
    from devices.engine_files import INFO_FILE, engine_name
    from devices.files import write_atomic
    from devices.footprint import measure_footprint
    from devices.latency import LatencyConfig, measure_interleaved, measuring_alone, pinned, summarize

    bundle = open_bundle(folder, "deploy", allow_unsigned)
    host = detect_host()
    with tempfile.TemporaryDirectory(prefix="espalier-agent-") as scratch:
        # The verified bytes are what the fresh process loads, not the bundle's files again.
        info = read_engine_info(bundle)
        write_atomic(Path(scratch, engine_name(info)), bundle.read(engine_path(info)))
        write_atomic(Path(scratch, INFO_FILE), bundle.read(ENGINE_INFO_PATH))
        with measuring_alone(waiting), pinned(info.threads) as cpus:
            engine = load_verified(bundle, host).engine
            image = np.random.default_rng(0).random((1, *engine.info.input_shape), dtype=np.float32)
            queries = {"engine": engine.bind(image)}
            samples = measure_interleaved(queries, LatencyConfig(duration_s=seconds), progress)
            footprint = measure_footprint(Path(scratch), repeats=3)
        size_bytes = Path(scratch, engine_name(info)).stat().st_size
    return {
        **_origin(bundle),
        "engine": engine.info.as_dict(),
        "host": host.as_dict(),
        "pinned_cpus": list(cpus),
        "latency": summarize(samples["engine"]).as_dict(),
        "footprint": footprint.as_dict(),
        "size_bytes": size_bytes,
    }


def attack_bundle(
    folder: Path, evidence_folder: Path, allow_unsigned: bool, progress: Progress = no_progress
) -> dict[str, object]:
    """Replay the evaluation sets of an evidence bundle through the engine of the deploy bundle it belongs to.

    Raises `BundleError`, `DataError`, `DeviceError`.
    """
    from devices.attack import of_the_whole_set, set_rows
    from devices.bundle import open_bundle
    from devices.classifier import load_verified
    from devices.detect import detect_host
    from devices.robustness import INDEX_FILE, accuracy, read_sets, replay, require_fit
    from devices.scoring import scorer_of

    bundle = open_bundle(folder, "deploy", allow_unsigned)
    evidence = open_bundle(evidence_folder, "evidence", allow_unsigned)
    _require_same_engine(bundle, evidence)
    index = f"sets/{INDEX_FILE}"
    place = str(evidence.folder / index)
    sets = read_sets(evidence.read_json(index), lambda name: evidence.read(f"sets/{name}"), place)
    scorer_of(sets.scoring)
    host = detect_host()
    engine = load_verified(bundle, host).engine
    require_fit(sets, engine.info)
    progress(0, 1, f"{len(sets.infos)} sets")
    found = replay(engine.run_all, sets)
    return {
        **_origin(bundle),
        "evidence": str(evidence.folder),
        "engine": engine.info.as_dict(),
        "host": host.as_dict(),
        "samples": len(sets.labels),
        "task": sets.scoring.kind,
        "clean": accuracy(found.scores["clean"]).as_dict(),
        "worst_case": accuracy(found.worst_case).as_dict() if found.has_attacks else None,
        **of_the_whole_set(found, "clean"),
        "sets": set_rows(found),
    }


def _require_same_engine(bundle: Any, evidence: Any) -> None:
    """Evidence of another network has other samples, or other classes, and its figures would mean nothing."""
    from devices.errors import BundleError

    node = f"engine {bundle.manifest.get('engine')}"
    built, judged = (manifest.get("stages", {}).get(node) for manifest in (bundle.manifest, evidence.manifest))
    if built != judged:
        raise BundleError(
            str(evidence.folder),
            f"is not the evidence of the engine in {bundle.folder}",
            "Give the one of the same run",
        )


def _origin(bundle: Any) -> dict[str, object]:
    manifest = bundle.manifest
    return {"bundle": str(bundle.folder), "name": manifest.get("name"), "device": manifest.get("device")}
