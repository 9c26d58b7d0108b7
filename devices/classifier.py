"""The shipped engine as a function: a frame in, a label out, or what another task gives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.bundle import MANIFEST, Bundle, open_bundle
from devices.detect import Host, detect_host
from devices.detector import Detector
from devices.engine_files import engine_name
from devices.engines.base import Engine, EngineInfo
from devices.engines.select import open_engine
from devices.errors import BundleError, DeviceError
from devices.preprocess import Preprocess
from devices.scoring import Scoring
from devices.segmenter import RawNetwork, Segmenter
from devices.trust.store import Trust, read_trust

ENGINE_PATH = "engine/engine.onnx"
"""Of an engine of ONNX Runtime; `engine_path` gives it of any."""
ENGINE_INFO_PATH = "engine/engine.json"
ONNX_PATH = "model.onnx"
PREPROCESS_PATH = "preprocess.json"
LABELS_PATH = "labels.json"
_MAKE_AGAIN = "Make the bundle again"


@dataclass(frozen=True)
class Prediction:
    """What the engine says of one frame."""

    label: str
    index: int
    probability: float
    """Softmax of the engine's outputs; not calibrated."""


class Classifier:
    """An engine with its preprocessing and labels."""

    def __init__(self, engine: Engine, preprocess: Preprocess, labels: tuple[str, ...]) -> None:
        self.engine = engine
        self.preprocess = preprocess
        self.labels = labels

    def __call__(self, image: NDArray[Any]) -> Prediction:
        """Classify one frame: (H, W) or (H, W, C), uint8 0 to 255 or float 0 to 1. Raises `DataError`.

        Raises `DeviceError` when the engine's answer is not finite.
        """
        logits = self.engine.run(self.preprocess(image))[0].astype(np.float64)
        if not np.isfinite(logits).all():
            raise DeviceError("engine", "gave an answer that is not finite", "Do not use it; measure its parity again")
        shares = np.exp(logits - logits.max())
        index = int(logits.argmax())
        return Prediction(self.labels[index], index, float(shares[index] / shares.sum()))


def load(
    bundle: str | Path,
    *,
    trust: str | Path | None = None,
    allow_unsigned: bool = False,
    allow_unknown_clock: bool = False,
    kernels: str | Path | None = None,
) -> Classifier | Segmenter | Detector | RawNetwork:
    """Verify a deploy bundle and load its engine, as a function of one frame.

    `trust` is the file of who is trusted; `allow_unknown_clock` takes a signer who may have expired while this device's
    clock is plainly wrong, as one without a battery is before it hears of the time. What it returns is by the bundle's
    task: a label, a class map, boxes, or the outputs as they are. `kernels` is a folder of this user in which
    TensorRT-RTX's compiled kernels are kept, so that only the first start compiles; without it every start does. Raises
    `BundleError` when the bundle is damaged, unsigned or by nobody trusted, `DeviceError` when the engine does not fit
    this host, `StorageError` for a folder of kernels that is not writable, or that others may write to.
    """
    named = read_trust(Path(trust)) if trust is not None else Trust()
    trusted = replace(named, allow_unsigned=allow_unsigned, allow_unknown_clock=allow_unknown_clock)
    folder = None if kernels is None else Path(kernels)
    return load_verified(open_bundle(Path(bundle), "deploy", trusted), detect_host(), folder)


def load_verified(
    bundle: Bundle, host: Host, kernels: Path | None = None
) -> Classifier | Segmenter | Detector | RawNetwork:
    """Load the engine of a bundle that was verified. Raises as `load` does."""
    scoring = Scoring.from_dict(bundle.manifest.get("task"), f"{bundle.folder / MANIFEST}: task")
    info = read_engine_info(bundle)
    place = str(bundle.folder / PREPROCESS_PATH)
    preprocess = Preprocess.from_dict(bundle.read_json(PREPROCESS_PATH), place)
    if (preprocess.channels, preprocess.height, preprocess.width) != info.input_shape:
        raise BundleError(place, f"does not make the engine's input {info.input_shape}", _MAKE_AGAIN)
    labels = bundle.read_json(LABELS_PATH)
    place = str(bundle.folder / LABELS_PATH)
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise BundleError(place, "must be a list of texts", _MAKE_AGAIN)
    if scoring.kind != "custom":
        _require_classes(info, scoring, len(labels), str(bundle.folder))
    engine = open_engine(bundle.read(engine_path(info)), info, host, kernels)
    kinds: dict[str, type[Classifier | Segmenter | Detector | RawNetwork]] = {
        "classification": Classifier,
        "segmentation": Segmenter,
        "detection": Detector,
        "custom": RawNetwork,
    }
    return kinds[scoring.kind](engine, preprocess, tuple(labels))


def _require_classes(info: EngineInfo, scoring: Scoring, labels: int, folder: str) -> None:
    axes = {"classification": [1], "segmentation": [3], "detection": [2, 2]}[scoring.kind]
    if [len(shape) for _, shape in info.ports] != axes:
        what = f"has outputs {info.ports}, which is no {scoring.kind}"
        raise BundleError(f"{folder}/{ENGINE_INFO_PATH}", what, _MAKE_AGAIN)
    classes = info.ports[0][1][1] if scoring.kind == "detection" else info.classes
    if labels != classes:
        raise BundleError(f"{folder}/{LABELS_PATH}", f"has {labels} labels for {classes} classes", _MAKE_AGAIN)


def engine_path(info: EngineInfo) -> str:
    """Path of the engine's bytes in a deploy bundle."""
    return f"engine/{engine_name(info)}"


def read_engine_info(bundle: Bundle) -> EngineInfo:
    """What the bundle's engine needs. Raises `BundleError` when it was not built from the bundle's ONNX file."""
    place = str(bundle.folder / ENGINE_INFO_PATH)
    info = EngineInfo.from_dict(bundle.read_json(ENGINE_INFO_PATH), place)
    if info.onnx_sha256 != bundle.digests.get(ONNX_PATH):
        raise BundleError(f"{place}: onnx_sha256", f"is not the digest of this bundle's {ONNX_PATH}", _MAKE_AGAIN)
    return info
