"""Bill of materials of a deploy bundle: CycloneDX 1.6 with a model card (ML-BOM).

Format: https://cyclonedx.org/docs/1.6/json/. The same bundle gives the same bytes: the serial number is made of the
content, and no date is in it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devices.files import digest_file, digest_value, write_json

SBOM_PATH = "sbom.cdx.json"
_MODEL, _ENGINE, _GRAPH, _DATA = "model", "engine", "graph", "data"
_APPROACH = {"type": "supervised"}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of the model card, with its 95 % interval where it has one."""

    kind: str
    """Such as `accuracy`."""
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class SbomConfig:
    """What the bill names, beside the files."""

    name: str
    device: str
    task: str
    architecture: str
    """What made the network, such as `pipeline.zoo:residual_cnn`."""
    data: str
    """What made the images."""
    data_digest: str
    """SHA-256 that the data set's code and files are known by."""
    input_shape: tuple[int, ...]
    """(C, H, W)."""
    precision: str
    runtime: str
    """What runs the engine, such as `onnxruntime`."""
    figures: tuple[Figure, ...]
    libraries: Mapping[str, str | None]
    """Version by distribution; None where one is not installed."""


def write_sbom(folder: Path, engine: str, graph: str, config: SbomConfig) -> None:
    """Write `sbom.cdx.json` into a bundle whose engine and graph are at these paths in it."""
    files = [
        _file(_ENGINE, engine, f"Engine of {config.runtime} for {config.device}, {config.precision}", folder),
        _file(_GRAPH, graph, "The graph that it was built of, in ONNX", folder),
    ]
    libraries = [_library(name, version) for name, version in sorted(config.libraries.items()) if version]
    made_with = [str(row["bom-ref"]) for row in libraries]
    content: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": _model(config, files[0]["hashes"])},
        "components": [*files, _data(config), *libraries],
        "dependencies": [
            {"ref": _MODEL, "dependsOn": [_DATA, _ENGINE]},
            {
                "ref": _ENGINE,
                "dependsOn": [_GRAPH, *(ref for ref in made_with if ref.startswith(_purl(config.runtime)))],
            },
            {"ref": _GRAPH, "dependsOn": made_with},
        ],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, digest_value(content))
    write_json(folder / SBOM_PATH, content | {"serialNumber": serial.urn})


def _model(config: SbomConfig, hashes: list[dict[str, str]]) -> dict[str, Any]:
    channels, height, width = config.input_shape
    return {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "name": config.name,
        "hashes": hashes,
        "modelCard": {
            "modelParameters": {
                "approach": _APPROACH,
                "task": config.task,
                "modelArchitecture": config.architecture,
                "datasets": [{"ref": _DATA}],
                "inputs": [{"format": f"image, {channels} x {height} x {width} (channels, height, width)"}],
                "outputs": [{"format": config.task}],
            },
            "quantitativeAnalysis": {"performanceMetrics": [_metric(figure) for figure in config.figures]},
        },
    }


def _metric(figure: Figure) -> dict[str, Any]:
    metric: dict[str, Any] = {"type": figure.kind, "value": f"{figure.value:.6g}"}
    if figure.low is not None and figure.high is not None:
        metric["confidenceInterval"] = {"lowerBound": f"{figure.low:.6g}", "upperBound": f"{figure.high:.6g}"}
    return metric


def _file(ref: str, path: str, description: str, folder: Path) -> dict[str, Any]:
    hashes = [{"alg": "SHA-256", "content": digest_file(folder / path)}]
    return {"type": "file", "bom-ref": ref, "name": path, "description": description, "hashes": hashes}


def _data(config: SbomConfig) -> dict[str, Any]:
    contents = {"properties": [{"name": "espalier:digest", "value": config.data_digest}]}
    row = {"type": "dataset", "name": config.data, "contents": contents}
    return {"type": "data", "bom-ref": _DATA, "name": config.data, "data": [row]}


def _library(name: str, version: str) -> dict[str, Any]:
    # `+cpu` and the like: of the build, and escaped in a package URL.
    purl = f"{_purl(name)}@{version.replace('+', '%2B')}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _purl(name: str) -> str:
    # PyPI's project of the name espalier is another one.
    return f"pkg:generic/{name}" if name in ("python", "espalier") else f"pkg:pypi/{name.lower().replace('_', '-')}"
