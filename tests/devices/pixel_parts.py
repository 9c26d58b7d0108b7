"""Real parts of segmentation and custom tasks: a network of pixels, its engine, its evaluation sets and its bundles.

The network tells dark, middling and bright pixels apart, by one convolution of a single pixel: the brightest class
from 2/3 on, the darkest up to 1/3. Its custom form gives the mean brightness besides.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from devices.bundle import write_manifest
from devices.detect import Host
from devices.engine_files import read_engine
from devices.engines.onnxruntime import OnnxRuntimeEngine, open_engine
from devices.files import write_json
from devices.robustness import INDEX_FILE, LABELS_FILE, EvaluationSets, SetInfo, read_sets, sets_index
from devices.scoring import Scoring
from tests.devices.parts import build_engine

SIZE, SAMPLES, IGNORED = 6, 20, 9
LEVELS = np.array([0.1, 0.5, 0.9], dtype=np.float32)
SEGMENTATION = Scoring(kind="segmentation", ignore_label=IGNORED)
Masks = NDArray[np.uint8]


def build_pixels(path: Path, pooled: bool = False, mean: bool = False) -> Path:
    """Logits (N, 3, 6, 6), or (N, 3, 3, 3) of means of four; with `mean`, (N, 1) as a second output."""
    weights = np.array([0, 1, 2], dtype=np.float32).reshape(3, 1, 1, 1)
    bias = np.array([0, -1 / 3, -1], dtype=np.float32)
    nodes = [helper.make_node("Conv", ["image", "weights", "bias"], ["each" if pooled else "logits"])]
    side = SIZE // 2 if pooled else SIZE
    if pooled:
        nodes.append(helper.make_node("AveragePool", ["each"], ["logits"], kernel_shape=[2, 2], strides=[2, 2]))
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3, side, side])]
    if mean:
        nodes += [
            helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["mean"]),
        ]
        outputs.append(helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch", 1]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, SIZE, SIZE])
    constants = [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")]
    graph = helper.make_graph(nodes, "pixels", [image], outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def engine_of(folder: Path, host: Host, **form: bool) -> OnnxRuntimeEngine:
    """The network's engine, in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    build_engine(folder, build_pixels(folder / "pixels.onnx", **form), host)
    return open_engine(*read_engine(folder), host)


def masks() -> Masks:
    """(20, 6, 6), a quarter of the pixels without a label."""
    rng = np.random.default_rng(0)
    found = rng.integers(0, 3, (SAMPLES, SIZE, SIZE)).astype(np.uint8)
    found[rng.random(found.shape) < 0.25] = IGNORED
    return found


def images_of(truth: Masks) -> NDArray[np.float32]:
    """Images (N, 1, 6, 6) on which the network is right; pixels without a label are bright."""
    return LEVELS[np.minimum(truth, 2)][:, None]


def pixel_sets() -> EvaluationSets:
    """Clean; an attack that turns the first column of every second image round; and darkness."""
    truth = masks()
    clean = images_of(truth)
    attacked = clean.copy()
    attacked[::2, :, :, 0] = 1 - attacked[::2, :, :, 0]
    infos = (
        SetInfo(name="clean", kind="clean", method="clean"),
        SetInfo(name="pgd_dense", kind="adversarial", method="pgd", surrogate="dense", epsilon=0.9),
        SetInfo(name="dark_1", kind="corruption", method="dark", strength=1),
    )
    images = {"clean": clean, "pgd_dense": attacked, "dark_1": np.zeros_like(clean)}
    return EvaluationSets(infos, images, truth, SEGMENTATION)


def harmed(truth: Masks) -> NDArray[np.float64]:
    """Scores under the attack, by hand: dark and bright pixels of the first column are wrong, middling ones right."""
    wrong = np.zeros(truth.shape, dtype=bool)
    wrong[::2, :, 0] = np.isin(truth[::2, :, 0], (0, 2))
    labelled = truth != IGNORED
    return np.asarray(1 - (wrong & labelled).sum((1, 2)) / labelled.sum((1, 2)))


def write(folder: Path, sets: EvaluationSets) -> None:
    """As the craft stage writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / INDEX_FILE, sets_index(sets.infos, sets.scoring))
    np.save(folder / LABELS_FILE, sets.labels)
    for info in sets.infos:
        np.save(folder / info.file, sets.images[info.name])


def read(folder: Path) -> EvaluationSets:
    index = json.loads((folder / INDEX_FILE).read_text())
    return read_sets(index, lambda name: (folder / name).read_bytes(), "sets.json")


def bundles(folder: Path, host: Host, scoring: Scoring, **form: bool) -> tuple[Path, Path]:
    """A deploy bundle and its evidence."""
    deploy, evidence = folder / "deploy", folder / "evidence"
    engine_of(deploy / "engine", host, **form)
    (deploy / "engine" / "pixels.onnx").rename(deploy / "model.onnx")
    write_json(deploy / "preprocess.json", {"channels": 1, "height": SIZE, "width": SIZE})
    write_json(deploy / "labels.json", ["dark", "middling", "bright"])
    of = {"engine": "pixels", "stages": {"engine pixels": "a" * 64}}
    content: dict[str, object] = {"name": "pixels", "device": "cpu", "task": scoring.as_dict(), **of}
    write_manifest(deploy, "deploy", content)
    write(evidence / "sets", replace(pixel_sets(), scoring=scoring))
    write_manifest(evidence, "evidence", content)
    return deploy, evidence
