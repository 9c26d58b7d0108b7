"""What each part checks. A part returns its figures, raises `AbsentError`, or fails by any other error."""

from __future__ import annotations

import copy
import importlib.util
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from devices.cuda import open_cuda
from devices.detect import detect_host
from devices.engine_files import ENGINE_FILE, engine_name, read_engine, write_info
from devices.engines import onnxruntime
from devices.engines.base import Engine, Outputs
from devices.engines.ort_options import CUDA, TENSORRT, OrtOptions
from devices.engines.select import open_engine
from devices.engines.tensorrt import BoundQuery
from devices.engines.tensorrt_options import Module, TensorRtOptions
from devices.engines.tensorrt_process import build
from devices.engines.tensorrt_start import measure_starts
from devices.errors import DeviceError, EspalierError
from devices.latency import LatencyConfig, measure_interleaved, summarize
from devices.layer_times import measure_layers
from devices.profile import Precision
from devices.telemetry.watch import WatchConfig, watching
from tests.benchmarks.gpu.parts import AbsentError, FailedError
from tests.benchmarks.gpu.precisions import precisions_of
from tests.benchmarks.rtx_build import write_resnet50

_SECONDS = 3.0
_BATCH = 8
_LEAST_ACCURACY = 0.9
# Of the largest answer. TF32 has the digits of FP16, and a value between two steps of INT8 or FP8 may go either way.
_DIFFERENCE = {"fp32": 5e-3, "fp16": 0.02, "bf16": 0.1, "int8": 0.1, "fp8": 0.25}
# Two short stages of bottlenecks on images of 32x32.
_SMALL = (((16, 1, 1), (32, 1, 2)), 32)
_NOT_STARTED, _NOT_KNOWN = "Provider does not start (", "does not build for"
_TELEMETRY_S = 2.0


def gpu() -> dict[str, Any]:
    """Which GPU it is."""
    host = detect_host()
    if not host.gpus:
        raise AbsentError("nvidia-smi lists no GPU")
    cuda = open_cuda()
    return {"gpus": list(host.gpus), "compute_capability": cuda.compute_capability()}


def training() -> dict[str, Any]:
    """Fine-tuning on CUDA in FP32 and BF16."""
    import torch

    if not torch.cuda.is_available():
        raise AbsentError("PyTorch sees no GPU (torch.cuda.is_available() is false)")
    return {"cuda": torch.version.cuda, **fine_tuning("cuda", ("fp32", "bf16"))}


def fine_tuning(accelerator: Literal["cpu", "cuda"], precisions: tuple[Literal["fp32", "bf16"], ...]) -> dict[str, Any]:
    """It learns, on what was asked for, and the network comes back to the CPU; whether two runs are equal is told."""
    import torch

    from pipeline.datasets.digits import digits
    from pipeline.recipe import FitConfig, ObjectiveConfig
    from pipeline.recovery.fit import fit
    from pipeline.recovery.weights import tensors_digest
    from pipeline.zoo import residual_cnn

    data = digits()
    figures: dict[str, Any] = {"torch": torch.__version__}
    torch.manual_seed(0)
    start = residual_cnn(channels=8)
    for precision in precisions:
        if precision == "bf16" and importlib.util.find_spec("lightning_fabric") is None:
            figures[precision] = "absent: lightning-fabric is not installed"
            continue
        config = FitConfig(epochs=3, learning_rate=0.1, accelerator=accelerator, precision=precision)
        digests, report, began = [], None, time.perf_counter()
        for _ in range(2):
            network = copy.deepcopy(start)
            report = fit(network, data.train, ObjectiveConfig(), config, 0, 1, lambda *_: None)
            digests.append(tensors_digest(network))
        assert report is not None
        seconds = (time.perf_counter() - began) / 2
        require(report.accelerator == accelerator, f"it ran on {report.accelerator}")
        require({item.device.type for item in network.parameters()} == {"cpu"}, "the network stayed on the GPU")
        with torch.no_grad():
            answers = network(torch.from_numpy(data.test.images)).argmax(1).numpy()
        accuracy = float((answers == data.test.labels).mean())
        require(accuracy >= _LEAST_ACCURACY, f"{precision} reached an accuracy of {accuracy:.3f}")
        figures[precision] = {
            "accuracy": accuracy,
            "last_loss": report.loss_by_epoch[-1],
            "seconds": seconds,
            "same_weights_twice": digests[0] == digests[1],
        }
    return figures


def onnxruntime_cuda() -> dict[str, Any]:
    """ONNX Runtime's provider of CUDA takes every node, and answers as the CPU does."""
    return _by_provider(CUDA, ("fp32", "fp16"))


def onnxruntime_tensorrt() -> dict[str, Any]:
    """The same for its provider of TensorRT."""
    # It takes FP16 only with an option that lets TensorRT round the rest to FP16 as well.
    return _by_provider(TENSORRT, ("fp32",))


def tensorrt() -> dict[str, Any]:
    """TensorRT builds for this GPU, and answers as the CPU does."""
    return _by_tensorrt("tensorrt")


def tensorrt_rtx() -> dict[str, Any]:
    """The same for TensorRT-RTX."""
    return _by_tensorrt("tensorrt_rtx")


def telemetry() -> dict[str, Any]:
    """What NVML tells of the GPU."""
    if not detect_host().gpus:
        raise AbsentError("nvidia-smi lists no GPU")
    with watching(WatchConfig()) as watched:
        time.sleep(_TELEMETRY_S)
    told = watched[0].as_dict()
    figures = {name: value for name, value in _mapping(told["figures"]).items() if "gpu" in name.lower()}
    require(bool(figures), f"no figure of the GPU; absent: {told['absent']}")
    return {"figures": figures, "absent": {key: str(why) for key, why in _mapping(told["absent"]).items()}}


PARTS: dict[str, Callable[[], Mapping[str, Any]]] = {
    "gpu": gpu,
    "training": training,
    "onnxruntime-cuda": onnxruntime_cuda,
    "onnxruntime-tensorrt": onnxruntime_tensorrt,
    "tensorrt": tensorrt,
    "tensorrt-rtx": tensorrt_rtx,
    "telemetry": telemetry,
}


def require(holds: bool, what: str) -> None:
    """Raise `AssertionError` unless it holds."""
    if not holds:
        raise AssertionError(what)


def _mapping(value: object) -> Mapping[str, Any]:
    assert isinstance(value, Mapping)
    return value


def _by_provider(provider: str, precisions: tuple[Precision, ...]) -> dict[str, Any]:
    ort = onnxruntime.load_module()
    if provider not in ort.get_available_providers():
        raise AbsentError(f"ONNX Runtime {ort.__version__} has no {provider}: pip install '.[onnxruntime-gpu]'")
    host = detect_host()
    if not host.gpus:
        raise AbsentError(f"ONNX Runtime {ort.__version__} has {provider}, but there is no GPU")

    def make(source: Path, folder: Path, precision: Precision) -> dict[str, Any]:
        write_info(
            folder,
            onnxruntime.build(source, folder / ENGINE_FILE, OrtOptions(provider=provider, threads=1), host),
        )
        layers = measure_layers(*read_engine(folder), host, 50)
        nodes: dict[str, int] = {}
        for layer in layers.layers:
            nodes[layer.provider] = nodes.get(layer.provider, 0) + 1
        return {"nodes_by_provider": nodes}

    try:
        return {"onnxruntime": ort.__version__, **check_engines(make, precisions)}
    except DeviceError as refused:
        if provider == TENSORRT and _NOT_STARTED in str(refused):
            # The wheel names the provider; TensorRT's own library comes from elsewhere.
            raise AbsentError(f"ONNX Runtime {ort.__version__} has {provider}, and TensorRT is not here") from refused
        raise


def _by_tensorrt(module: Module) -> dict[str, Any]:
    if importlib.util.find_spec(module) is None:
        raise AbsentError(f"the module {module} is not installed")
    try:
        capability = open_cuda().compute_capability()
    except DeviceError as missing:
        raise AbsentError(str(missing)) from missing
    precisions = precisions_of(module, capability, detect_host())

    def make(source: Path, folder: Path, precision: Precision) -> dict[str, Any]:
        options = TensorRtOptions(
            module=module,
            precision=precision,
            allowed=precisions,
            compute_capability=capability,
            batches=(1, 1, _BATCH),
        )
        report = build(source, folder, options)
        return {"build_s": report.build_s, "version": report.info.runtime_version}

    return check_engines(make, precisions, measure_start=module == "tensorrt_rtx")


def check_engines(
    make: Callable[[Path, Path, Precision], dict[str, Any]],
    precisions: tuple[Precision, ...],
    measure_start: bool = False,
) -> dict[str, Any]:
    """Parity of a small network, and latency of the shape of ResNet-50, by precision.

    A precision that fails leaves the others their turn. Raises `FailedError` then; `DeviceError` where nothing starts.
    """
    figures: dict[str, Any] = {}
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="espalier-gpu-") as name:
        for precision in precisions:
            try:
                figures[precision] = _check_engine(make, precision, Path(name), measure_start)
            except (EspalierError, AssertionError) as fault:
                if _NOT_STARTED in str(fault):
                    raise
                if _NOT_KNOWN in str(fault):
                    figures[precision] = {"refused": str(fault)}
                else:
                    failures.append(f"{precision}: {fault}")
    if failures:
        raise FailedError("; ".join(failures), figures)
    return figures


def _check_engine(
    make: Callable[[Path, Path, Precision], dict[str, Any]], precision: Precision, place: Path, measure_start: bool
) -> dict[str, Any]:
    small, folder = write_small(place / f"small-{precision}.onnx", precision), place / f"small-{precision}"
    folder.mkdir()
    make(small, folder, precision)
    engine = _open(folder)
    images = np.random.default_rng(0).random((_BATCH, *engine.info.input_shape), dtype=np.float32)
    # No CPU computes in BF16: there the reference has the same weights in FP32.
    exact = write_small(place / "exact.onnx", "fp32") if precision == "bf16" else small
    difference = _difference(onnxruntime.open_reference(exact, 1)(images), engine.run(images))
    require(difference <= _DIFFERENCE[precision], f"differs by {difference:.3g} from the CPU")
    whole = place / f"resnet50-{precision}"
    whole.mkdir()
    told = make(write_resnet50(place / f"resnet50-{precision}.onnx", precision), whole, precision)
    found = {"largest_difference": difference, **told, **_latency(whole)}
    return found | (_starts(whole) if measure_start else {})


def write_small(path: Path, precision: Precision) -> Path:
    """A few layers of what ResNet-50 has, for parity."""
    return write_resnet50(path, precision, *_SMALL)


def _starts(folder: Path) -> dict[str, Any]:
    starts = measure_starts(folder, 1)
    require(starts.warm.cache_bytes > 0, "the runtime cache holds nothing")
    return {
        "cold_first_query_ms": starts.cold.first_query_ms,
        "warm_first_query_ms": starts.warm.first_query_ms,
        "runtime_cache_bytes": starts.warm.cache_bytes,
    }


def _open(folder: Path) -> Engine:
    return open_engine(*read_engine(folder), detect_host())


def _difference(expected: Outputs, found: Outputs) -> float:
    """Of the largest answer, a share."""
    return float(np.abs(np.asarray(expected) - np.asarray(found)).max() / np.abs(np.asarray(expected)).max())


def _latency(folder: Path) -> dict[str, Any]:
    engine = _open(folder)
    image = np.random.default_rng(0).random((1, *engine.info.input_shape), dtype=np.float32)
    query = engine.bind(image)
    found = summarize(measure_interleaved({"gpu": query}, LatencyConfig(duration_s=_SECONDS))["gpu"])
    size_bytes = (folder / engine_name(engine.info)).stat().st_size
    graph = {"cuda_graph": query.uses_graph} if isinstance(query, BoundQuery) else {}
    return {"p50_ms": found.p50_ms.value, "p99_ms": found.p99_ms.value, "size_bytes": size_bytes, **graph}
