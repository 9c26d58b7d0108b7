"""Bundles as they are assembled open on the device, and hold what they should and no more."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devices.bundle import open_bundle
from devices.classifier import load
from devices.detect import detect_host
from devices.engine_files import ENGINE_FILE, write_info
from devices.engines import onnxruntime
from devices.errors import BundleError, StorageError
from devices.preprocess import Preprocess
from devices.trust.store import UNSIGNED, Trust
from exporters.package import assemble_deploy, assemble_evidence
from tests.exporters.parts import samples
from tests.exporters.test_sbom import CONFIG

LABELS = tuple("0123456789")


@pytest.fixture
def deploy(old_export: Path, tmp_path: Path) -> Path:
    """A deploy bundle of the small network."""
    options = onnxruntime.OrtOptions(provider="CPUExecutionProvider", threads=1)
    engine = tmp_path / "engine"
    engine.mkdir()
    write_info(engine, onnxruntime.build(old_export, engine / ENGINE_FILE, options, detect_host()))
    folder = tmp_path / "deploy"
    preprocess = Preprocess(channels=1, height=8, width=8)
    assemble_deploy(folder, engine, old_export, preprocess, LABELS, CONFIG, {"name": "small", "device": "cpu"})
    return folder


def test_a_deploy_bundle_opens_and_classifies(deploy: Path, old_export: Path) -> None:
    bundle = open_bundle(deploy, "deploy", UNSIGNED)
    assert bundle.manifest["name"] == "small"
    assert set(bundle.digests) == {
        "engine/engine.onnx",
        "engine/engine.json",
        "model.onnx",
        "preprocess.json",
        "labels.json",
        "sbom.cdx.json",
    }
    assert bundle.read("model.onnx") == old_export.read_bytes()
    expected = onnxruntime.open_reference(old_export, 1)(samples(8)).argmax(axis=1)
    classifier = load(deploy, allow_unsigned=True)
    assert [classifier(image[0]).index for image in samples(8)] == expected.tolist()
    assert classifier.labels == LABELS


def test_it_is_refused_unsigned_and_as_another_kind(deploy: Path) -> None:
    with pytest.raises(BundleError, match="is not signed"):
        open_bundle(deploy, "deploy", Trust())
    with pytest.raises(BundleError, match="kind 'deploy', not 'evidence'"):
        open_bundle(deploy, "evidence", UNSIGNED)


def test_a_bundle_can_be_moved(deploy: Path, tmp_path: Path) -> None:
    shutil.move(deploy, tmp_path / "elsewhere")
    assert open_bundle(tmp_path / "elsewhere", "deploy", UNSIGNED).digests


def test_an_evidence_bundle_opens_with_the_names_given(tmp_path: Path) -> None:
    source = tmp_path / "results"
    source.mkdir()
    np.save(source / "clean.npy", samples(4))
    (source / "report.json").write_text("{}")
    files = {"sets/clean.npy": source / "clean.npy", "report.json": source / "report.json"}
    assemble_evidence(tmp_path / "evidence", files, {"name": "small"})
    bundle = open_bundle(tmp_path / "evidence", "evidence", UNSIGNED)
    assert set(bundle.digests) == set(files)
    assert bundle.read("sets/clean.npy") == (source / "clean.npy").read_bytes()


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a").write_text("a")
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(StorageError, match=r"the disk is full"):
        assemble_evidence(tmp_path / "evidence", {"a": tmp_path / "a"}, {})
