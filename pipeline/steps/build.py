"""Step: a graph to an engine, by the library that the device's profile names."""

from __future__ import annotations

from pathlib import Path

from devices.agent_build import BuildJob
from devices.agent_config import decode
from devices.engine_files import engine_name, read_info
from devices.engines import onnxruntime
from devices.engines.base import EngineInfo
from devices.errors import DeviceError
from devices.files import digest_file
from devices.profile import Profile
from devices.stage import Metrics
from exporters.parity import compare, require
from pipeline.place import place_of
from pipeline.steps.convert import ONNX_FILE, reference_of
from pipeline.steps.limits import agreement_of, rounding_limits
from pipeline.tuning import is_tuned, tuned_profile
from pipeline.work import StepInputs


def build(inputs: StepInputs) -> Metrics:
    """ONNX to engine; where it runs, with proof that it computes what the graph says."""
    work = inputs.work
    stored = next(found for node, found in inputs.results.items() if not is_tuned(node))
    onnx_path = stored.folder / ONNX_FILE
    job = decode(BuildJob, inputs.options["build"], "build")
    images = work.parity_images if work.measured else None
    profile, place = tuned_profile(inputs), place_of(work, inputs.kept)
    built = place.build(onnx_path, images, profile, job, inputs.folder, inputs.progress)
    info = read_info(inputs.folder)
    size_bytes = (inputs.folder / engine_name(info)).stat().st_size
    metrics: dict[str, object] = {"size_bytes": size_bytes, "build": built.told, **built.origin}
    if built.told.get("gpu_layers"):
        metrics["lines"] = built.told["lines"]
    if images is None:
        require_described(info, onnx_path, work.profile, work.dataset.input_shape)
        return metrics
    expected = onnxruntime.open_reference(reference_of(stored.folder), work.recipe.threads)(images)
    found = built.answers if isinstance(expected, tuple) else built.answers[0]
    parity = compare("ONNX to engine", expected, found, agreement_of(inputs))
    limits = rounding_limits(work.recipe.parity, job.precision)
    require(parity, limits, "The engine does not compute what the graph says; report it with its model")
    return {"parity": parity.as_dict(), **metrics}


def require_described(info: EngineInfo, onnx_path: Path, profile: Profile, image: tuple[int, int, int]) -> None:
    """Check what can be checked of an engine that cannot be run here. Raises `DeviceError`."""
    asked = {
        "runtime": profile.engine.runtime,
        "compute_capability": profile.hardware.compute_capability or "",
        "onnx_sha256": digest_file(onnx_path),
        "input_shape": image,
    }
    if profile.engine.served_by == "trtexec":
        # What is here is the graph; ONNX Runtime opens it.
        asked |= {"runtime": "onnxruntime", "compute_capability": ""}
    for name, wanted in asked.items():
        if getattr(info, name) != wanted:
            what = f"says {name} {getattr(info, name)}, and {wanted} was to be built"
            raise DeviceError("engine", what, "Report it with its model")
