"""Errors on their way from a board to its host."""

from __future__ import annotations

from devices import errors
from devices.errors import DeviceError, EspalierError
from devices.memory_fault import memory_fault

_KINDS: tuple[type[EspalierError], ...] = (
    errors.RecipeError,
    errors.ModelError,
    errors.DataError,
    errors.DeviceError,
    errors.BundleError,
    errors.ParityError,
    errors.StorageError,
)


def error_content(error: BaseException) -> dict[str, str]:
    """An error as JSON values: kind, where, what, fix. What is no error for the user is a fault of the agent."""
    error = memory_fault(error) or error
    if isinstance(error, EspalierError):
        return {"kind": type(error).__name__, "where": error.where, "what": error.what, "fix": error.fix}
    if isinstance(error, ModuleNotFoundError) and error.name in ("numpy", "onnxruntime", "tensorrt"):
        fix = f"Install {error.name} for it, or name another interpreter in the fleet's file"
        return {"kind": "DeviceError", "where": "python", "what": f"has no module {error.name}", "fix": fix}
    fault = " ".join(f"{type(error).__name__}: {error}".split())
    return {"kind": "DeviceError", "where": "agent", "what": f"internal fault ({fault})", "fix": ""}


def error_of(content: object, board: str) -> EspalierError:
    """The error again, naming the board it is from; no board: as it was."""
    told = content if isinstance(content, dict) else {}
    kind = next((kind for kind in _KINDS if kind.__name__ == told.get("kind")), DeviceError)
    where, what, fix = (str(told.get(key, "")) for key in ("where", "what", "fix"))
    return kind(": ".join(part for part in (board, where) if part), what or "failed without a message", fix)
