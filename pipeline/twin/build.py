"""From a quantized ONNX file to its twin, and the proof that both answer alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import nn

from devices.engines.base import Outputs
from devices.errors import ModelError, ParityError
from devices.scoring import as_tuple, same_classes
from devices.stage import StageResult
from exporters.onnx_import import read_source
from exporters.parity import Agreement, Parity, compare
from pipeline.onnx_network.graph import read_graph
from pipeline.onnx_network.network import build_network
from pipeline.prune.network import inference
from pipeline.twin.config import TwinConfig
from pipeline.twin.straight_through import TWIN_BUILDERS

_BATCH = 128
_FP8 = (TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2)


@dataclass(frozen=True)
class TwinArtifact:
    """A quantized graph whose twin was proved, by its file; None when it was not, and nothing is attacked with it."""

    onnx_path: Path | None


def build_twin(onnx_path: Path) -> nn.Module:
    """The graph's network in torch, in evaluation: what it answers is what the graph says, rounding included.

    Rounding has the gradient of the identity within each range (backward pass differentiable approximation, Athalye et
    al. 2018, section 4.1). Raises `ModelError` naming an operator that has no torch form.
    """
    where = str(onnx_path)
    source = read_source(onnx_path)
    if any(tensor.data_type in _FP8 for tensor in source.model.graph.initializer):
        raise ModelError(where, "computes in FP8, whose steps are not those of whole numbers", "Quantize it to INT8")
    network = build_network(read_graph(source, where), where, TWIN_BUILDERS)
    # Attacks differentiate by the image alone.
    return network.requires_grad_(False)


def prove_twin(
    onnx_path: Path,
    answer: Callable[[NDArray[np.float32]], Outputs],
    images_NCHW: NDArray[np.float32],
    config: TwinConfig,
    agreement: Agreement | None = same_classes,
) -> StageResult[TwinArtifact]:
    """Compare the twin of a graph with what answers in its place, such as its engine, on images (N, C, H, W), 0 to 1.

    The metrics say whether it is `kept`, and for what `reason` not: an operator without torch form, or too many other
    answers. Nothing is raised for either, because a run without this one attack is still worth something.
    """
    parity: Parity | None = None
    reason = None
    try:
        twin = build_twin(onnx_path)
        expected = as_tuple(answer(images_NCHW))
        parity = compare("engine to twin", expected, answers_of(twin, images_NCHW), agreement)
    except (ModelError, ParityError) as error:
        reason = f"{error.what}"
    if parity is not None:
        reason = _too_far(parity, config)
    kept = reason is None
    metrics = {"kept": kept, "reason": reason, "twin_parity": parity.as_dict() if parity else None}
    return StageResult(TwinArtifact(onnx_path if kept else None), metrics)


def answers_of(network: nn.Module, images_NCHW: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """Every output of a torch network, each (N, ...)."""
    parts = []
    with inference(network):
        for start in range(0, len(images_NCHW), _BATCH):
            answered = network(torch.from_numpy(images_NCHW[start : start + _BATCH].copy()))
            parts.append(answered if isinstance(answered, tuple) else (answered,))
    return tuple(np.concatenate([part.numpy() for part in column]) for column in zip(*parts, strict=True))


def _too_far(parity: Parity, config: TwinConfig) -> str | None:
    if parity.agreement is not None and parity.agreement < config.min_agreement:
        return (
            f"it answers {parity.agreement:.2%} of {parity.samples} images as the engine does, "
            f"and {config.min_agreement:.1%} are asked"
        )
    if parity.agreement is None and parity.sqnr_db < config.min_sqnr_db:
        return f"its answers are {parity.sqnr_db:.1f} dB from the engine's, and {config.min_sqnr_db:g} dB are asked"
    return None
