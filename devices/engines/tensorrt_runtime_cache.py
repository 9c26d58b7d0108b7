"""Kernels that TensorRT-RTX compiles when an engine first runs, kept in a file for the next start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from devices.files import write_atomic


class RuntimeCache:
    """The compiled kernels of one engine on one GPU. Without a file, or in TensorRT, it does nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._config: Any = None
        self._cache: Any = None
        self.was_warm = False
        """Whether kernels were read from the file."""

    def create_context(self, trt: Any, engine: Any) -> Any:
        """An execution context; None when the library gives none.

        TensorRT-RTX compiles kernels for a shape while slower ones answer, unless told to have them ready first:
        otherwise the first queries would be timed with other kernels than the rest.
        """
        if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
            return engine.create_execution_context()
        if self._config is None:
            self._config = engine.create_runtime_config()
            eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            self._config.dynamic_shapes_kernel_specialization_strategy = eager
            self._attach()
        return engine.create_execution_context(self._config)

    def _attach(self) -> None:
        if self._path is None:
            return
        self._cache = self._config.create_runtime_cache()
        if self._path.exists():
            # Of another GPU, driver or version it is refused, and written anew.
            self.was_warm = bool(self._cache.deserialize(self._path.read_bytes()))
        self._config.set_runtime_cache(self._cache)

    def write(self) -> int:
        """Write the kernels. Returns the size in bytes; 0 where there is nothing to keep."""
        if self._path is None or self._cache is None:
            return 0
        content = bytes(self._cache.serialize())
        write_atomic(self._path, content)
        return len(content)


def no_cache() -> RuntimeCache:
    """For engines whose kernels are not kept."""
    return RuntimeCache(None)
