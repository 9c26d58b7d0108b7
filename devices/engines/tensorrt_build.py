"""One build in this process. It is called in a process of its own: a failed build leaves state in the library that
changes the next engine, and the library keeps the first logger that it was given."""

from __future__ import annotations

import contextlib
import importlib
import platform
import time
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from devices.cuda import open_cuda
from devices.engine_files import INFO_FILE, PLAN_FILE, write_info
from devices.engines import tensorrt_log as logs
from devices.engines import timing_cache
from devices.engines.base import EngineInfo
from devices.engines.tensorrt_network import (
    Ports,
    Problem,
    Product,
    engine_info,
    has_type,
    ports_of,
    problems_of,
    products_of,
    require_batches,
    require_parsed,
    require_precisions,
)
from devices.engines.tensorrt_options import INSTALL, TITLES, Dialect, Module, TensorRtOptions, dialect_of
from devices.errors import DeviceError, EspalierError
from devices.files import digest_bytes, write_atomic

_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What a build gave and took."""

    info: EngineInfo
    size_bytes: int
    sha256: str
    """Digest of the plan."""
    parse_s: float
    build_s: float
    """In the library's build call alone."""
    products: dict[str, int]
    """Convolutions and matrix products by what they compute in, as the parser took them."""
    gpu_layers: tuple[str, ...]
    """Layers that the DLA left to the GPU; empty without a DLA."""
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {**asdict(self), "info": self.info.as_dict()}


@dataclass(frozen=True, kw_only=True)
class ParseReport:
    """What TensorRT's parser makes of a graph. No GPU is needed: what it takes here, it takes on the device."""

    title: str
    version: str
    problems: tuple[Problem, ...]
    products: tuple[Product, ...]
    """Convolutions and matrix products with their precision, where the graph was taken."""

    @property
    def taken(self) -> bool:
        """Whether nothing is refused."""
        return not self.problems

    @property
    def by_precision(self) -> dict[str, int]:
        """Convolutions and matrix products by what they compute in."""
        return _counts(self.products)


def _counts(products: tuple[Product, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for product in products:
        found[product.precision] = found.get(product.precision, 0) + 1
    return found


def load_module(module: Module) -> Any:
    """The library. Raises `DeviceError` where it is not installed or does not load."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    # A library of it that does not load raises OSError, or RuntimeError in some versions.
    except (ImportError, OSError, RuntimeError) as cause:
        raise DeviceError("engine runtime", f"{TITLES[module]} does not load ({cause})", INSTALL[module]) from cause


def build_here(trt: Any, onnx_path: Path, folder: Path, options: TensorRtOptions, cache: Path | None) -> BuildReport:
    """Write `engine.plan` and `engine.json` to the folder, atomically. Raises `DeviceError` or `ModelError`."""
    dialect = dialect_of(options.module, trt.__version__, options.dla_core is not None)
    if not dialect.ahead_of_time:
        options = _for_gpu_at_hand(options)
    content, where = onnx_path.read_bytes(), str(onnx_path)
    log: list[logs.Message] = []
    builder = _builder(trt, log, dialect.title)
    started = time.perf_counter()
    network, _ = _parsed(trt, builder, dialect, content, log, where)
    ports = ports_of(network, where)
    require_batches(ports, options, where)
    products = products_of(network)
    require_precisions(products, options, dialect, where)
    config = builder.create_builder_config()
    configure(trt, builder, network, config, options, dialect)
    left_to_gpu = _place_on_dla(trt, builder, network, config, options)
    parsed = time.perf_counter()
    path = (
        None
        if cache is None or dialect.ahead_of_time
        else timing_cache.cache_path(cache, trt.__version__, options.compute_capability)
    )
    # The builder reads the cache while it builds.
    times = timing_cache.attach(config, path) if path else None
    plan = builder.build_serialized_network(network, config)
    built = time.perf_counter()
    if plan is None:
        raise logs.build_failure(dialect.title, where, log)
    if path and times is not None:
        timing_cache.keep(config, path)
    info = describe(ports, options, dialect, digest_bytes(content))
    plan_bytes = bytes(plan)
    _write(folder, plan_bytes, info)
    return BuildReport(
        info=info,
        size_bytes=len(plan_bytes),
        sha256=digest_bytes(plan_bytes),
        parse_s=parsed - started,
        build_s=built - parsed,
        products=_counts(products),
        gpu_layers=tuple(dict.fromkeys((*left_to_gpu, *logs.on_gpu_instead(log)))),
        warnings=logs.warnings_of(log),
    )


def parse_here(trt: Any, onnx_path: Path, module: Module) -> ParseReport:
    """What the parser makes of the file. Raises `ModelError` when it cannot be read at all."""
    dialect = dialect_of(module, trt.__version__, False)
    log: list[logs.Message] = []
    builder = _builder(trt, log, dialect.title)
    network = builder.create_network(_creation_flags(trt, dialect))
    parser = trt.OnnxParser(network, logs.make_logger(trt, log))
    parsed = parser.parse(onnx_path.read_bytes())
    problems = () if parsed else problems_of(parser, log)
    if not parsed and not any(problem.operator != "(none)" for problem in problems):
        require_parsed(parsed, parser, log, dialect.title, str(onnx_path))
    products = products_of(network) if parsed else ()
    return ParseReport(title=dialect.title, version=trt.__version__, problems=problems, products=products)


def configure(trt: Any, builder: Any, network: Any, config: Any, options: TensorRtOptions, dialect: Dialect) -> None:
    """Tell the library the options, in the words of its version."""
    if dialect.ahead_of_time:
        _target(trt, config, options)
    if not dialect.strongly_typed:
        for flag, present in (("FP16", has_type(network, "HALF")), ("INT8", has_type(network, "INT8"))):
            if present:
                config.set_flag(getattr(trt.BuilderFlag, flag))
    if options.sparse:
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if options.workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb * _MIB)
    image = network.get_input(0)
    least, *rest = tuple(image.shape)
    if least < 0:
        profile = builder.create_optimization_profile()
        profile.set_shape(image.name, *((batch, *rest) for batch in options.batches))
        config.add_optimization_profile(profile)


def _target(trt: Any, config: Any, options: TensorRtOptions) -> None:
    name = f"SM{options.compute_capability.replace('.', '')}"
    target = getattr(trt.ComputeCapability, name, None)
    if target is None:
        known = ", ".join(sorted(item for item in dir(trt.ComputeCapability) if item.startswith("SM")))
        what = f"TensorRT-RTX {trt.__version__} does not build for {options.compute_capability} (it has {known})"
        raise DeviceError("hardware.compute_capability", what, "Use TensorRT or ONNX Runtime there")
    config.num_compute_capabilities = 1
    config.set_compute_capability(target, 0)


def _place_on_dla(trt: Any, builder: Any, network: Any, config: Any, options: TensorRtOptions) -> tuple[str, ...]:
    """Everything to the DLA that it takes. Returns the layers that it does not."""
    if options.dla_core is None:
        return ()
    if options.dla_core >= builder.num_DLA_cores:
        what = f"has no core {options.dla_core} (this device has {builder.num_DLA_cores})"
        raise DeviceError("DLA", what, "Name another core, or build for the GPU")
    if options.batches[2] > builder.max_DLA_batch_size:
        what = f"takes batches of at most {builder.max_DLA_batch_size}, not {options.batches[2]}"
        raise DeviceError("DLA", what, "Build for smaller batches")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = options.dla_core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return tuple(layer.name for layer in layers if not config.can_run_on_DLA(layer))


def _builder(trt: Any, log: list[logs.Message], title: str) -> Any:
    try:
        return trt.Builder(logs.make_logger(trt, log))
    # Raised by the bindings when the library gives them no builder: mostly, there is no GPU.
    except (TypeError, RuntimeError) as cause:
        said = "; ".join(logs.errors_of(log)) or str(cause)
        raise DeviceError("engine build", f"{title} does not start here ({said})", "Build on the device") from cause


def _creation_flags(trt: Any, dialect: Dialect) -> int:
    flags = trt.NetworkDefinitionCreationFlag
    if dialect.typed_by_flag:
        return 1 << int(flags.STRONGLY_TYPED)
    return 1 << int(flags.EXPLICIT_BATCH) if not dialect.strongly_typed and hasattr(flags, "EXPLICIT_BATCH") else 0


def _parsed(
    trt: Any, builder: Any, dialect: Dialect, content: bytes, log: list[logs.Message], where: str
) -> tuple[Any, Any]:
    network = builder.create_network(_creation_flags(trt, dialect))
    parser = trt.OnnxParser(network, logs.make_logger(trt, log))
    require_parsed(parser.parse(content), parser, log, dialect.title, where)
    # The network's weights lie in the parser.
    return network, parser


def _for_gpu_at_hand(options: TensorRtOptions) -> TensorRtOptions:
    found = open_cuda().compute_capability()
    if options.compute_capability not in ("", found):
        what = f"is {options.compute_capability} in the profile, and this GPU has {found}"
        raise DeviceError("hardware.compute_capability", what, "Choose the profile of this device")
    return replace(options, compute_capability=found)


def describe(ports: Ports, options: TensorRtOptions, dialect: Dialect, onnx_sha256: str) -> EngineInfo:
    """What the engine needs, from what it was built with."""
    machine = f"{platform.machine()}-{platform.system().lower()}"
    return engine_info(ports, options, dialect.version, machine, onnx_sha256)


def _write(folder: Path, plan: bytes, info: EngineInfo) -> None:
    """The description goes first and comes last: a plan without one is no engine, and never has another's."""
    with contextlib.suppress(FileNotFoundError):
        (folder / INFO_FILE).unlink()
    write_atomic(folder / PLAN_FILE, plan)
    write_info(folder, info)


def error_dict(error: EspalierError) -> dict[str, str]:
    """An error for JSON, to be raised again in another process."""
    return {"kind": type(error).__name__, "where": error.where, "what": error.what, "fix": error.fix}
