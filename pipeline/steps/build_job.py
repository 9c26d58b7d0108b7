"""How the engines of a run are built."""

from __future__ import annotations

from typing import cast

from devices.agent_build import BuildJob
from devices.agent_config import encode
from devices.profile import Precision
from pipeline.work import Work


def build_job(work: Work, precision: str, sparse: bool) -> dict[str, object]:
    """A `BuildJob` as JSON values; `sparse` says whether the weights are 2:4."""
    if work.profile.engine.runtime == "onnxruntime":
        return encode(BuildJob(precision=cast(Precision, precision)))
    most = max(work.profile.measure.batch_sizes)
    # Latency is of one image, so that is what kernels are chosen for.
    return encode(BuildJob(precision=cast(Precision, precision), batches=(1, 1, most), sparse=sparse))
