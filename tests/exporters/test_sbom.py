"""The bill of materials: valid by CycloneDX's schema, the same from the same bundle, and about the right files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from devices.files import digest_file
from exporters.sbom import SBOM_PATH, Figure, SbomConfig, write_sbom

CONFIG = SbomConfig(
    name="digits",
    device="cpu",
    task="classification",
    architecture="pipeline.zoo:residual_cnn",
    data="pipeline.datasets.digits:digits",
    data_digest="0" * 64,
    input_shape=(1, 8, 8),
    precision="int8",
    runtime="onnxruntime",
    figures=(Figure(kind="clean_accuracy", value=0.99, low=0.98, high=0.995), Figure(kind="size_bytes", value=4264)),
    libraries={
        "python": "3.11.7",
        "torch": "2.13.0+cpu",
        "onnxruntime": "1.32.0",
        "espalier": "0.1.0",
        "onnxsim": None,
    },
)


def bill(folder: Path, config: SbomConfig = CONFIG) -> dict[str, Any]:
    (folder / "engine").mkdir(parents=True, exist_ok=True)
    (folder / "engine" / "engine.onnx").write_bytes(b"engine")
    (folder / "model.onnx").write_bytes(b"graph")
    write_sbom(folder, "engine/engine.onnx", "model.onnx", config)
    found: dict[str, Any] = json.loads((folder / SBOM_PATH).read_text())
    return found


def error_of(text: str) -> object:
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)


def test_it_is_valid_by_the_schema(tmp_path: Path) -> None:
    content = bill(tmp_path)
    assert error_of(json.dumps(content)) is None
    # The schema is one that refuses.
    content["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"][0]["value"] = 1
    assert error_of(json.dumps(content)) is not None


def test_that_of_a_run_is_valid_and_names_its_files(drilled: tuple[Path, Path]) -> None:
    deploy = drilled[1] / "deploy"
    text = (deploy / SBOM_PATH).read_text()
    assert error_of(text) is None
    content = json.loads(text)
    hashes = {row["name"]: row["hashes"][0]["content"] for row in content["components"] if row["type"] == "file"}
    assert hashes == {name: digest_file(deploy / name) for name in ("engine/engine.onnx", "model.onnx")}
    libraries = {row["name"]: row["version"] for row in content["components"] if row["type"] == "library"}
    assert libraries.items() >= json.loads((deploy / "manifest.json").read_text())["versions"].items()
    card = content["metadata"]["component"]["modelCard"]
    metrics = {row["type"]: row for row in card["quantitativeAnalysis"]["performanceMetrics"]}
    assert set(metrics) == {"clean_accuracy", "robust_accuracy", "latency_p50_ms", "size_bytes"}
    low, high = (float(metrics["clean_accuracy"]["confidenceInterval"][end]) for end in ("lowerBound", "upperBound"))
    assert low <= float(metrics["clean_accuracy"]["value"]) <= high


def test_the_same_bundle_gives_the_same_bytes_and_another_another_serial_number(tmp_path: Path) -> None:
    first, again = bill(tmp_path / "a"), bill(tmp_path / "b")
    assert (tmp_path / "a" / SBOM_PATH).read_bytes() == (tmp_path / "b" / SBOM_PATH).read_bytes()
    assert first == again
    other = bill(tmp_path / "c", replace(CONFIG, device="rtx-4090"))
    assert other["serialNumber"] != first["serialNumber"]
    assert first["serialNumber"].startswith("urn:uuid:")


def test_what_depends_on_what_exists(tmp_path: Path) -> None:
    content = bill(tmp_path)
    known = {row["bom-ref"] for row in [content["metadata"]["component"], *content["components"]]}
    named = {ref for row in content["dependencies"] for ref in (row["ref"], *row["dependsOn"])}
    assert named <= known
    assert "pkg:pypi/onnxruntime@1.32.0" in next(
        row["dependsOn"] for row in content["dependencies"] if row["ref"] == "engine"
    )


@pytest.mark.parametrize(
    ("name", "purl"),
    [
        ("torch", "pkg:pypi/torch@2.13.0%2Bcpu"),
        ("espalier", "pkg:generic/espalier@0.1.0"),
        ("python", "pkg:generic/python@3.11.7"),
    ],
)
def test_libraries_are_named_by_package_url(tmp_path: Path, name: str, purl: str) -> None:
    rows = {row["name"]: row for row in bill(tmp_path)["components"]}
    assert rows[name]["purl"] == purl
    assert "onnxsim" not in rows
