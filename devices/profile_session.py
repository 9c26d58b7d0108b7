"""How a session of ONNX Runtime is opened on a device, as its profile says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GraphOptimization = Literal["off", "basic", "extended", "all"]
ExecutionMode = Literal["sequential", "parallel"]


@dataclass(frozen=True, kw_only=True)
class SessionProfile:
    """Options of ONNX Runtime's session and provider. What is left out is as ONNX Runtime has it."""

    graph_optimization: GraphOptimization = "all"
    """How far ONNX Runtime rewrites the graph: on a CPU when the engine is built, elsewhere when it is opened."""
    execution_mode: ExecutionMode = "sequential"
    """Whether nodes that do not need each other run at the same time."""
    inter_threads: int = 1
    """Threads that share the nodes, in parallel mode; `engine.threads` share one node."""
    spinning: bool = True
    """Whether threads that have nothing to do wait by running on the CPU."""
    arena: bool = True
    """Whether memory of the CPU is kept from one query to the next."""
    device_id: int = 0
    """Number of the GPU, for the providers of CUDA and TensorRT."""
    memory_limit_mb: int | None = None
    """Memory on the GPU: CUDA's arena, or TensorRT's workspace."""
    tf32: bool = False
    """Whether CUDA may round FP32 to 10 bits of mantissa in products."""
    allow_fallback: tuple[str, ...] = ()
    """Operators, such as `Shape`, that may run on the CPU where the provider does not take them. Others are refused."""
