"""Real parts for the tests of `devices`: a small network with known answers, its engine and its evaluation sets.

The network tells which two of six rows are brightest, by one convolution of the size of the image. Of 30 samples the
clean image misleads it on the last, `fgsm_dense` on the first 10, `pgd_dense` on the 8th to the 15th counted from 0,
and the corruption on all: clean 29, worst case 13 of 30.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from devices.detect import Host
from devices.engine_files import ENGINE_FILE, write_info
from devices.engines import onnxruntime
from devices.engines.base import EngineInfo, FloatArray
from devices.files import write_json
from devices.robustness import INDEX_FILE, LABELS_FILE, EvaluationSets, SetInfo, sets_index

CLASSES = ("top", "middle", "bottom")
SIZE = 6
SAMPLES = 30
EPSILON = 0.3
OPTIONS = onnxruntime.OrtOptions(provider="CPUExecutionProvider", threads=1)

Array = NDArray[np.float32]


def rows_kernel() -> Array:
    """Weights (3, 1, 6, 6): class k is the sum of rows 2k and 2k + 1."""
    kernel = np.zeros((3, 1, SIZE, SIZE), dtype=np.float32)
    for index in range(3):
        kernel[index, 0, 2 * index : 2 * index + 2] = 1
    return kernel


def build_onnx(
    path: Path,
    kernel: Array | None = None,
    batch: int | str = "batch",
    size: int | str = SIZE,
    two_inputs: bool = False,
    element: int = TensorProto.FLOAT,
) -> Path:
    """A convolution (N, 1, 6, 6) to (N, 3, 1, 1), a rectifier and a flattening, or something near that is refused."""
    kernel = rows_kernel() if kernel is None else kernel
    weights = numpy_helper.from_array(kernel, "weights")
    inputs = [helper.make_tensor_value_info("image", element, [batch, 1, size, size])]
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["pixels", "weights"], ["sums"]),
        helper.make_node("Relu", ["sums"], ["positive"]),
        helper.make_node("Flatten", ["positive"], ["flat"]),
    ]
    if two_inputs:
        inputs.append(helper.make_tensor_value_info("offset", TensorProto.FLOAT, [batch, 3]))
        nodes.append(helper.make_node("Add", ["flat", "offset"], ["logits"]))
    else:
        nodes.append(helper.make_node("Identity", ["flat"], ["logits"]))
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3])]
    graph = helper.make_graph(nodes, "rows", inputs, outputs, [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def build_engine(folder: Path, onnx_path: Path, host: Host) -> EngineInfo:
    """`engine.onnx` and `engine.json` in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    info = onnxruntime.build(onnx_path, folder / ENGINE_FILE, OPTIONS, host)
    write_info(folder, info)
    return info


def rows_image(label: int, contrast: float) -> Array:
    """(1, 6, 6): the two rows of the label are brighter (or darker) than the rest by `contrast`, around 0.5."""
    image = np.full((1, SIZE, SIZE), 0.5 - contrast / 2, dtype=np.float32)
    image[0, 2 * label : 2 * label + 2] = 0.5 + contrast / 2
    return image


def build_sets() -> EvaluationSets:
    """Sets on which the network's answers are known; see the top of this file."""
    labels = np.arange(SAMPLES, dtype=np.int64) % 3
    clean = np.stack([rows_image(int(label), 0.4) for label in labels])
    clean[-1] = rows_image(0, 0.4)
    right, wrong = (np.stack([rows_image(int(label), contrast) for label in labels]) for contrast in (0.1, -0.1))
    number = np.arange(SAMPLES)[:, None, None, None]
    infos = (
        SetInfo(name="clean", kind="clean", method="clean"),
        SetInfo(name="fgsm_dense", kind="adversarial", method="fgsm", surrogate="dense", epsilon=EPSILON),
        SetInfo(name="pgd_dense", kind="adversarial", method="pgd", surrogate="dense", epsilon=EPSILON),
        SetInfo(name="invert_1", kind="corruption", method="invert", strength=1),
    )
    images = {
        "clean": clean,
        "fgsm_dense": np.where(number < 10, wrong, right).astype(np.float32),
        "pgd_dense": np.where((number >= 8) & (number < 16), wrong, right).astype(np.float32),
        "invert_1": wrong,
    }
    return EvaluationSets(infos, images, labels)


def random_answers() -> Callable[[FloatArray], FloatArray]:
    """An engine whose logits (N, 3) have nothing to do with the images."""
    rng = np.random.default_rng(0)
    return lambda images_NCHW: rng.random((len(images_NCHW), 3), dtype=np.float32)


def write_sets(folder: Path, sets: EvaluationSets) -> None:
    """As the craft stage writes them."""
    write_json(folder / INDEX_FILE, sets_index(sets.infos))
    np.save(folder / LABELS_FILE, sets.labels)
    for info in sets.infos:
        np.save(folder / info.file, sets.images[info.name])
