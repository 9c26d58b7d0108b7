"""Bundles on the device: the shipped engine's latency, and its answers to the evaluation sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.stage import Progress, no_progress

if TYPE_CHECKING:
    from devices.bench_job import BenchJob
    from devices.bundle import Bundle
    from devices.engines.base import EngineInfo
    from devices.outcome import Outcome
    from devices.queries.plan import QueryPlan
    from devices.trust.store import Trust


def bench_bundle(
    folder: Path, against: Path | None, job: BenchJob, progress: Progress = no_progress
) -> dict[str, object]:
    """Verify a deploy bundle and measure its engine here, interleaved with that of `against` where there is one.

    Raises `BundleError`, `DeviceError`, for a bundle of a graph alone too, and `DataError` for two engines that
    cannot take the same image.
    """
    import tempfile

    from devices.bench_job import OTHER, SHIPPED
    from devices.bundle import open_bundle
    from devices.classifier import load_verified
    from devices.detect import detect_host
    from devices.measure import measure_engines

    host = detect_host()
    places = {SHIPPED: folder} | ({OTHER: against} if against else {})
    bundles = {name: open_bundle(place, "deploy", job.trust) for name, place in places.items()}
    preprocess = {name: load_verified(bundle, host).preprocess for name, bundle in bundles.items()}[SHIPPED]
    with tempfile.TemporaryDirectory(prefix="espalier-agent-") as scratch:
        engines = {name: Path(scratch, name) for name in bundles}
        infos = {name: _lay_out(bundle, engines[name]) for name, bundle in bundles.items()}
        if against:
            _require_alike(infos[SHIPPED], infos[OTHER], against)
        plan = job.plan(preprocess, against is not None)
        measured: dict[str, Any] = dict(
            measure_engines(engines, plan, host, Path(scratch, "measured"), progress).metrics
        )
    rows = {
        name: {**_origin(bundle), "host": host.as_dict(), "engine": infos[name].as_dict(), **measured["engines"][name]}
        for name, bundle in bundles.items()
    }
    compared = {}
    if against:
        (ratio,) = (row for row in measured["speedups"] if row["engine"] == SHIPPED)
        compared = {"against": rows[OTHER], "ratio": ratio}
    shared = {name: value for name, value in measured.items() if name not in ("engines", "speedups")}
    return {**rows[SHIPPED], **shared, **compared}


def read_built_info(bundle: Any) -> EngineInfo:
    """What a bundle's engine is. Raises `DeviceError` where it holds a graph that a board builds its engine from."""
    from devices.classifier import ONNX_PATH, engine_path, read_engine_info
    from devices.engines.ort_options import CPU
    from devices.errors import DeviceError

    info = read_engine_info(bundle)
    # A CPU's engine is an optimized graph; what is here as it was exported is for another device.
    if info.provider == CPU and bundle.digests[engine_path(info)] == bundle.digests[ONNX_PATH]:
        what = "holds a graph and no engine of this machine: trtexec builds one on the board"
        raise DeviceError(
            str(bundle.folder), what, "Measure it there: espalier bench BUNDLE --host USER@BOARD --device NAME"
        )
    return info


def _lay_out(bundle: Any, folder: Path) -> EngineInfo:
    """The verified bytes are what is measured, in fresh processes too, and not the bundle's files again."""
    from devices.classifier import ENGINE_INFO_PATH, engine_path
    from devices.engine_files import INFO_FILE, engine_name
    from devices.files import write_atomic

    info = read_built_info(bundle)
    write_atomic(folder / engine_name(info), bundle.read(engine_path(info)))
    write_atomic(folder / INFO_FILE, bundle.read(ENGINE_INFO_PATH))
    return info


def _require_alike(shipped: EngineInfo, other: EngineInfo, place: Path) -> None:
    from devices.errors import DataError

    if other.input_shape != shipped.input_shape:
        what = f"takes images {other.input_shape}, and the other bundle {shipped.input_shape}"
        raise DataError(str(place), what, "Compare engines of the same input")


def attack_bundle(
    folder: Path,
    evidence_folder: Path,
    trust: Trust,
    queries: int = 0,
    progress: Progress = no_progress,
) -> dict[str, object]:
    """Replay the evaluation sets of an evidence bundle through the engine of the deploy bundle it belongs to.

    With `queries`, so many a sample are then asked by what the run was queried with, or by Square. Raises
    `BundleError`, `DataError`, `DeviceError`.
    """
    from devices.attack import require_classes
    from devices.bundle import open_bundle
    from devices.classifier import load_verified
    from devices.detect import detect_host
    from devices.evidence_queries import plan_of
    from devices.metered import part_of
    from devices.outcome import Outcome
    from devices.queries.evaluate import query_engine
    from devices.robustness import INDEX_FILE, read_sets, replay, require_fit
    from devices.scoring import scorer_of

    bundle = open_bundle(folder, "deploy", trust)
    evidence = open_bundle(evidence_folder, "evidence", trust)
    require_same_engine(bundle, evidence)
    index = f"sets/{INDEX_FILE}"
    place = str(evidence.folder / index)
    sets = read_sets(evidence.read_json(index), lambda name: evidence.read(f"sets/{name}"), place)
    scorer_of(sets.scoring)
    plan = plan_of(evidence, sets, queries) if queries else None
    require_classes(sets, plan)
    host = detect_host()
    engine = load_verified(bundle, host).engine
    require_fit(sets, engine.info)
    progress(0, 2 if plan else 1, f"{len(sets.infos)} sets")
    replayed = replay(engine.run_all, sets)
    asked = None
    if plan and replayed.is_steady:
        rest = part_of(progress, 0.5, 1.0)
        asked = query_engine(engine.run, sets.images["clean"], sets.labels, plan, rest)
    ran = {"engine": engine.info.as_dict(), "host": host.as_dict()}
    of_sets = {"samples": len(sets.labels), "task": sets.scoring.kind}
    origin = _origin(bundle) | {"evidence": str(evidence.folder)}
    return {**origin, **ran, **of_sets, **_answers(Outcome(replayed, asked), bundle, evidence, plan)}


def _answers(found: Outcome, bundle: Bundle, evidence: Bundle, plan: QueryPlan | None) -> dict[str, object]:
    from devices.attack import of_the_whole_set, set_rows
    from devices.evidence_queries import masking_on_board
    from devices.outcome import query_rows
    from devices.robustness import accuracy

    masking = masking_on_board(found, evidence, str(bundle.manifest.get("engine")), plan)
    if not found.is_steady:
        return {"alike": found.alike, "clean": None, "worst_case": None, "sets": [], "queries": [], "masking": masking}
    return {
        "alike": found.alike,
        "clean": accuracy(found.replay.scores["clean"]).as_dict(),
        "worst_case": accuracy(found.worst_case).as_dict() if found.has_attacks else None,
        **of_the_whole_set(found.replay, "clean"),
        "sets": set_rows(found.replay),
        "queries": query_rows(found, found, plan),
        "masking": masking,
    }


def require_same_engine(bundle: Any, evidence: Any) -> None:
    """Raise `BundleError` for evidence of another engine: its samples and figures would mean nothing here."""
    from devices.errors import BundleError

    node = f"engine {bundle.manifest.get('engine')}"
    stages = [manifest.get("stages") for manifest in (bundle.manifest, evidence.manifest)]
    built, judged = (found.get(node) if isinstance(found, dict) else None for found in stages)
    if built is None or built != judged:
        raise BundleError(
            str(evidence.folder),
            f"is not the evidence of the engine in {bundle.folder}",
            "Give the one of the same run",
        )


def _origin(bundle: Any) -> dict[str, object]:
    manifest = bundle.manifest
    return {"bundle": str(bundle.folder), "name": manifest.get("name"), "device": manifest.get("device")}
