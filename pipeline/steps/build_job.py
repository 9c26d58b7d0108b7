"""How the engines of a run are built."""

from __future__ import annotations

from typing import cast

from devices.agent_build import BuildJob
from devices.agent_config import encode
from devices.profile import Precision
from pipeline.work import Work

ON_DLA = "fp16"
"""The one precision that the DLA is given: it takes no quantized graph."""


def build_job(work: Work, precision: str, sparse: bool) -> dict[str, object]:
    """A `BuildJob` as JSON values; `sparse` says whether the weights are 2:4."""
    if work.profile.engine.runtime == "onnxruntime":
        return encode(BuildJob(precision=cast(Precision, precision)))
    most = max(work.profile.measure.batch_sizes)
    dla_core = work.recipe.engine.dla_core if precision == ON_DLA else None
    # Latency is of one image, so that is what kernels are chosen for; the DLA takes one size of batch alone.
    batches = (1, 1, most if dla_core is None else 1)
    return encode(BuildJob(precision=cast(Precision, precision), batches=batches, sparse=sparse, dla_core=dla_core))
