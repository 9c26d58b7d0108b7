"""Simplification of an ONNX graph by onnxsim, with proof that the answers did not change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from devices.engines.onnxruntime import open_reference
from devices.errors import ModelError
from devices.files import write_atomic
from devices.scoring import same_classes
from exporters.parity import Agreement, Parity, ParityLimits, compare, require
from exporters.portable import portable_bytes
from exporters.quiet import first_line, quiet


def simplify_onnx(
    source: Path,
    target: Path,
    samples_NCHW: NDArray[np.float32],
    limits: ParityLimits,
    threads: int,
    agreement: Agreement | None = same_classes,
) -> tuple[Parity, dict[str, int]]:
    """Fold constants and remove what has no effect. Returns parity and the count of nodes before and after.

    Raises `ModelError` when onnxsim fails, `ParityError` when the answers differ.
    """
    import onnx
    import onnxsim

    model = onnx.load(source)
    try:
        with quiet():
            # Its own check runs on random inputs; ours below runs on real samples.
            simplified, _ = onnxsim.simplify(model, check_n=0)
    # onnxsim raises plain RuntimeError and ONNX's checker errors, which share no base.
    except Exception as cause:
        raise ModelError(str(source), f"onnxsim cannot simplify it: {first_line(cause)}", "Report it") from cause
    write_atomic(target, portable_bytes(simplified))
    expected = open_reference(source, threads)(samples_NCHW)
    answered = open_reference(target, threads)(samples_NCHW)
    parity = compare("ONNX to simplified", expected, answered, agreement)
    require(parity, limits, "The simplifier changed the network's answers")
    return parity, {"nodes_before": len(model.graph.node), "nodes_after": len(simplified.graph.node)}
