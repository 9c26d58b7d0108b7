"""Readers of `tests.fuzz`, with what they read when nothing is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from devices.bundle import MANIFEST, open_bundle, write_manifest
from devices.classifier import ENGINE_INFO_PATH, ENGINE_PATH, LABELS_PATH, ONNX_PATH, PREPROCESS_PATH, load_verified
from devices.detect import detect_host
from devices.errors import BundleError, ModelError
from devices.files import read_json, write_json
from devices.fleet import read_fleet
from devices.profile import load_profile
from devices.robustness import read_sets
from devices.trust.envelope import SIGNATURE_FILE
from devices.trust.store import UNSIGNED, read_trust, trust_in_key
from pipeline.prune.plan import PruningPlan
from pipeline.recipe import read_recipe
from tests.devices.parts import CLASSES, SIZE, build_engine, build_onnx, build_sets, write_sets
from tests.devices.trust.signers import make_key, sign
from tests.fuzz import ROOT, Reader
from tests.fuzz_archives import archive_readers
from tests.fuzz_runs import run_readers

_FLEET = b"""
[boards.lab]
host = "user@board"
device = "jetson-orin-nano-8gb"
python = "python3"
cache = "~/.cache/espalier"
ssh_options = ["-p", "2222"]
start_s = 60.0
limit_s = 3600
reconnect_s = 90
"""
_TRUST = b"""
issued = 2026-01-01
[[keys]]
name = "release"
public_key = "ours.pub"
not_before = 2026-01-01
not_after = 2027-01-31T12:00:00Z
[[certificates]]
name = "house"
roots = "ours.pub"
subjects = ["CN=release,O=Example"]
revocations = "ours.pub"
[[revoked]]
key_id = "0000000000000000000000000000000000000000000000000000000000000000"
reason = "leaked"
"""
_PLAN = {
    "format": "espalier-plan/2",
    "cuts": [{"tensor": "0.weight", "dim": 0, "size": 8, "keep": [0, 2, 3]}],
    "numbers": [{"module": "attention", "attribute": "heads", "before": 8, "after": 4}],
    "blocks": ["layer1.0"],
    "masked": ["2.weight"],
}


def readers(base: Path) -> list[Reader]:
    """All readers; what they need beside the file is made in the folder."""
    deploy, evidence = _deploy(base), _evidence(base)
    key = make_key(base, "ours").with_suffix(".pub")
    sign(deploy, key.with_suffix(".key"))
    trust, host = trust_in_key(key), detect_host()

    def of_recipe(content: bytes, folder: Path) -> None:
        read_recipe(_written(folder / "recipe.toml", content))

    def of_profile(content: bytes, folder: Path) -> None:
        load_profile(str(_written(folder / "profile.toml", content)))

    def of_fleet(content: bytes, folder: Path) -> None:
        read_fleet(_written(folder / "fleet.toml", content))

    def of_trust(content: bytes, folder: Path) -> None:
        shutil.copyfile(key, folder / "ours.pub")
        read_trust(_written(folder / "trust.toml", content))

    def of_plan(content: bytes, folder: Path) -> None:
        path = _written(folder / "plan.json", content)
        PruningPlan.from_dict(read_json(path, ModelError), str(path))

    def of_manifest(content: bytes, folder: Path) -> None:
        shutil.copytree(deploy, folder, dirs_exist_ok=True)
        _written(folder / MANIFEST, content)
        load_verified(open_bundle(folder, "deploy", UNSIGNED), host)

    def of_signature(content: bytes, folder: Path) -> None:
        shutil.copytree(deploy, folder, dirs_exist_ok=True)
        _written(folder / SIGNATURE_FILE, content)
        open_bundle(folder, "deploy", trust)

    def of_bundle(name: str) -> Reader:
        def read(content: bytes, folder: Path) -> None:
            shutil.copytree(deploy, folder, dirs_exist_ok=True)
            _written(folder / name, content)
            write_manifest(folder, "deploy", {"name": "rows", "device": "cpu"})
            load_verified(open_bundle(folder, "deploy", UNSIGNED), host)

        kind = "json" if name.endswith(".json") else "bytes"
        return Reader(name, ((deploy / name).read_bytes(),), read, kind)

    def of_sets(name: str) -> Reader:
        def read(content: bytes, folder: Path) -> None:
            path = _written(folder / name, content)
            index = path if name == "sets.json" else evidence / "sets.json"
            held = {name: folder} if name != "sets.json" else {}
            read_sets(read_json(index, BundleError), lambda file: _content(held.get(file, evidence) / file), str(index))

        kind = "json" if name.endswith(".json") else "bytes"
        return Reader(f"sets: {name}", ((evidence / name).read_bytes(),), read, kind)

    recipes = (*sorted((ROOT / "recipes").glob("*.toml")), ROOT / "tests" / "drill_recipe" / "drill.toml")
    profiles = sorted((ROOT / "devices" / "profiles").glob("*.toml"))
    return [
        Reader("recipe", tuple(path.read_bytes() for path in recipes), of_recipe, "toml"),
        Reader("profile", tuple(path.read_bytes() for path in profiles), of_profile, "toml"),
        Reader("fleet", (_FLEET,), of_fleet, "toml"),
        Reader("trust", (_TRUST,), of_trust, "toml"),
        Reader("pruning plan", (json.dumps(_PLAN).encode(),), of_plan, "json"),
        Reader("manifest", ((deploy / MANIFEST).read_bytes(),), of_manifest, "json"),
        Reader("signature", ((deploy / SIGNATURE_FILE).read_bytes(),), of_signature, "json"),
        *(of_bundle(name) for name in (ENGINE_INFO_PATH, PREPROCESS_PATH, LABELS_PATH, ENGINE_PATH)),
        *(of_sets(name) for name in ("sets.json", "clean.npy", "labels.npy")),
        *archive_readers(deploy, base),
        *run_readers(base),
    ]


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _content(path: Path) -> bytes:
    """A file of the evidence, as a bundle reads it."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as cause:
        raise BundleError(str(path), "is not in this bundle") from cause


def _deploy(base: Path) -> Path:
    folder = base / "deploy"
    build_onnx(folder / ONNX_PATH)
    build_engine(folder / "engine", folder / ONNX_PATH, detect_host())
    write_json(folder / PREPROCESS_PATH, {"channels": 1, "height": SIZE, "width": SIZE})
    write_json(folder / LABELS_PATH, list(CLASSES))
    write_manifest(folder, "deploy", {"name": "rows", "device": "cpu"})
    return folder


def _evidence(base: Path) -> Path:
    folder = base / "sets"
    folder.mkdir(parents=True)
    write_sets(folder, build_sets())
    return folder
