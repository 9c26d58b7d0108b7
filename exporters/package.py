"""Bundles: what ships (deploy) and what proves it (evidence)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from devices.bundle import write_manifest
from devices.classifier import ENGINE_INFO_PATH, LABELS_PATH, ONNX_PATH, PREPROCESS_PATH, engine_path
from devices.engine_files import INFO_FILE, engine_name, read_info
from devices.files import storage_errors, write_json
from devices.preprocess import Preprocess
from exporters.sbom import SbomConfig, write_sbom


def assemble_deploy(
    folder: Path,
    engine_folder: Path,
    onnx_path: Path,
    preprocess: Preprocess,
    labels: tuple[str, ...],
    sbom: SbomConfig,
    manifest: dict[str, object],
) -> None:
    """Write the bundle that ships: engine, ONNX, preprocessing, labels, bill of materials, manifest. No test image."""
    info = read_info(engine_folder)
    copy_file(engine_folder / engine_name(info), folder / engine_path(info))
    copy_file(engine_folder / INFO_FILE, folder / ENGINE_INFO_PATH)
    copy_file(onnx_path, folder / ONNX_PATH)
    write_json(folder / PREPROCESS_PATH, preprocess.as_dict())
    write_json(folder / LABELS_PATH, list(labels))
    write_sbom(folder, engine_path(info), ONNX_PATH, sbom)
    write_manifest(folder, "deploy", manifest)


def assemble_evidence(folder: Path, files: Mapping[str, Path], manifest: dict[str, object]) -> None:
    """Write the bundle that proves it: evaluation sets, results, report; `files` by their path in the bundle."""
    for name, source in files.items():
        copy_file(source, folder / name)
    write_manifest(folder, "evidence", manifest)


def copy_file(source: Path, target: Path) -> None:
    """Copy one file's content. Raises `StorageError` when the disk is full."""
    with storage_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
