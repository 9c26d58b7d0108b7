"""What the report says of single layers: cost and predicted time of those that ship, harm of quantizing each."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from devices.errors import DeviceError, ModelError, StorageError
from devices.files import read_json
from devices.predict import Prediction, predict
from devices.predict_layers import LayerCosts
from devices.profile import Profile
from devices.roofline import missing_rates, tera_per_s
from exporters.layers import layer_costs
from pipeline.engine_plan import graph_of
from pipeline.results import shipped_of
from pipeline.steps.convert import ONNX_FILE
from pipeline.steps.quantize import MIXED_FILE
from pipeline.work import StepInputs

MIXED_PREFIX = "mixed "


def layer_costs_of(inputs: StepInputs) -> dict[str, Any]:
    """Layers of the graph that ships, fused as an engine would; `why` says what is not known, and is None otherwise."""
    work = inputs.work
    graph = inputs.path(graph_of(shipped_of(inputs.results), work.engines)) / ONNX_FILE
    try:
        costs = layer_costs(graph)
    except ModelError as unknown:
        none: dict[str, Any] = {"layers": [], "roofs": {}, "bandwidth_gb_s": None, "missing": []}
        return none | {"device_kind": work.profile.kind, "why": str(unknown)}
    predicted, why = None, None
    try:
        predicted = predict(costs, work.profile)
    except DeviceError:
        # A profile need not know the rates of its device.
        why = "the device's profile lacks rates"
    return {
        "layers": _rows(costs, predicted),
        "roofs": _roofs(costs, work.profile),
        "bandwidth_gb_s": work.profile.hardware.bandwidth_gb_s,
        "missing": _missing(costs, work.profile),
        "device_kind": work.profile.kind,
        "why": why,
    }


def sensitivity_of(inputs: StepInputs) -> list[dict[str, Any]]:
    """Harm of quantizing each layer, by the network whose layers were judged; none without [quantize.mixed]."""
    return [
        {"network": name.removeprefix(MIXED_PREFIX)} | read_json(inputs.path(name) / MIXED_FILE, StorageError)
        for name in inputs.results
        if name.startswith(MIXED_PREFIX)
    ]


def _rows(costs: LayerCosts, predicted: Prediction | None) -> list[dict[str, Any]]:
    rows = []
    for index, layer in enumerate(costs.layers):
        kept = {key: value for key, value in asdict(layer).items() if key in ("name", "op", "precision", "macs")}
        moved_bytes = layer.weight_bytes + layer.input_bytes + layer.output_bytes
        time = predicted.per_layer[index] if predicted else None
        told = {"latency_ms": time.latency_ms if time else None, "mostly": time.mostly if time else None}
        rows.append(kept | {"moved_bytes": moved_bytes} | told)
    return rows


def _missing(costs: LayerCosts, profile: Profile) -> list[str]:
    """Keys of the profile that a roofline needs and that are not there."""
    used = sorted({layer.precision for layer in costs.layers})
    return list(dict.fromkeys(key for name in used for key in missing_rates(profile.hardware, name)))


def _roofs(costs: LayerCosts, profile: Profile) -> dict[str, float]:
    """Operations in tera a second by precision, as far as the profile knows them."""
    used = sorted({layer.precision for layer in costs.layers})
    return {
        precision: tera_per_s(profile.hardware, precision)
        for precision in used
        if not missing_rates(profile.hardware, precision)
    }
