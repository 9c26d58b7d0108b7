"""Milliseconds of real engines on this host, each measured beside the dense one, and kept in a file."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from devices.detect import Host
from devices.engine_files import ENGINE_FILE, read_engine, write_info
from devices.engines import onnxruntime
from devices.engines.base import EngineInfo
from devices.errors import BundleError
from devices.files import digest_value, read_json, write_json
from devices.latency import (
    LatencyConfig,
    Timings,
    interleaved_ratio,
    measuring_alone,
    pinned,
    summarize,
    time_reopened,
)
from devices.profile import Activations
from devices.stage import Progress, no_progress
from devices.statistics import Interval
from exporters.onnx_export import export_onnx
from exporters.parity import ParityLimits
from exporters.quantize import quantize_int8
from exporters.quantize_layers import has_attention
from exporters.quantize_options import End, Operators, QuantizeOptions
from exporters.simplify import simplify_onnx
from pipeline.prune.groups import Unit, plan_for
from pipeline.prune.network import copy_network
from pipeline.prune.plan import PruningPlan
from pipeline.prune.replay import apply_plan

FORMAT = "espalier-latency/1"
PlanKey = Callable[[Sequence[Unit]], tuple[str, Mapping[str, int]]]
"""Of removed units: digest of what is left, and the widths that were cut, by tensor."""
DENSE_KEY = digest_value(PruningPlan().as_dict())
"""Digest of the plan that removes nothing: no engine is made for it."""
_RESAMPLES = 1000
# A network fresh from pruning answers anything; its latency is that of its widths all the same.
_ANY_ANSWER = ParityLimits(min_sqnr_db=float("-inf"), min_agreement=0.0)


@dataclass(frozen=True, kw_only=True)
class ConversionConfig:
    """How a network becomes an engine, as for the one that ships."""

    opset: int
    activations: Activations | None
    """INT8 flavour; None ships FP32."""
    weight_bits: int
    options: onnxruntime.OrtOptions | None
    """Of the session; None where ONNX Runtime is not what runs the engine, and none can be made here."""
    threads: int
    """CPU threads of the comparison runs."""
    ends: tuple[End, ...] = ()
    """Layers of an INT8 graph that stay in FP32."""
    operators: Operators | Literal["auto"] = "auto"
    """What of it computes in INT8; `auto` decides by the graph."""


@dataclass(frozen=True)
class EngineMaker:
    """Makes the engine of a network without some of its units. The network is not changed."""

    network: nn.Module
    config: ConversionConfig
    host: Host
    images: NDArray[np.float32]
    """Real images, (N, C, H, W), that exports are compared on and INT8 ranges come from; a few dozen do."""

    def __call__(self, removed: Sequence[Unit], folder: Path) -> None:
        """Write engine and description into `folder`. Raises `ModelError` when a step cannot take the network."""
        network, config, images = copy_network(self.network), self.config, self.images
        assert config.options is not None
        apply_plan(network, plan_for(network, removed))
        exported, simplified, quantized = (folder / f"{name}.onnx" for name in ("exported", "simplified", "quantized"))
        export_onnx(network, images, config.opset, exported, _ANY_ANSWER, config.threads)
        simplify_onnx(exported, simplified, images, _ANY_ANSWER, config.threads)
        ready = simplified
        if config.activations is not None:
            flavour = config.activations, config.weight_bits
            options = QuantizeOptions(ends=config.ends, operators=_operators(config, simplified))
            quantize_int8(simplified, quantized, images, images, *flavour, _ANY_ANSWER, config.threads, options=options)
            ready = quantized
        write_info(folder, onnxruntime.build(ready, folder / ENGINE_FILE, config.options, self.host))


def _operators(config: ConversionConfig, source: Path) -> Operators:
    """As for the engine that ships, on ONNX Runtime."""
    if config.operators != "auto":
        return config.operators
    return "products" if has_attention(source) else "all"


def plan_key(network: nn.Module, dense: nn.Module) -> PlanKey:
    """Keys of `network` without the units that are removed; `dense` with all of its units has a key of its own."""
    shapes = {name: list(tensor.shape) for name, tensor in network.named_parameters()}

    def key_of(removed: Sequence[Unit]) -> tuple[str, Mapping[str, int]]:
        if not removed and network is dense:
            return DENSE_KEY, {}
        plan = plan_for(network, removed)
        # The plan alone does not say which network it cuts.
        key = digest_value([shapes, json.loads(json.dumps(plan.as_dict()))])
        return key, {cut.tensor: len(cut.keep) for cut in plan.cuts if cut.dim == 0}

    return key_of


@dataclass(frozen=True)
class Measurement:
    """Latency of one network, one image."""

    widths: Mapping[str, int]
    """What is left of each group; nothing is said of the dense network."""
    latency_ms: Interval
    """Median: that of the dense engine, as measured first, times `ratio`."""
    ratio: Interval
    """Of medians, to the dense engine, which ran interleaved in the same process: so drift cancels."""
    samples: int
    """Timed queries."""


class MeasuredLatency:
    """Latencies by plan. What was measured is in a file, and whoever opens that file again decides by the same figures.

    The file's rows are used when they are of the same dense engine, host and duration, and replaced when not.
    """

    def __init__(
        self,
        dense: Path,
        make_engine: Callable[[Sequence[Unit], Path], None],
        key_of: PlanKey,
        config: LatencyConfig,
        host: Host,
        file: Path,
        progress: Progress = no_progress,
    ) -> None:
        """`dense` is the folder of the dense engine, in the precision that ships; `file` is written at once.

        Raises `DeviceError` or `BundleError` when the engine or the file cannot be used.
        """
        self._dense, self._make_engine, self._key_of = read_engine(dense), make_engine, key_of
        self._config, self._host, self._file, self._progress = config, host, file, progress
        engine, latency = self._dense[1].as_dict(), asdict(config)
        self._of = digest_value({"engine": engine, "host": host.fingerprint, "latency": latency})
        known = self._read()
        self._rows = known or self._start()
        if not known:
            self._write()

    @property
    def rows(self) -> Mapping[str, Measurement]:
        """What is known, by the digest of the plan."""
        return dict(self._rows)

    @property
    def dense_ms(self) -> float:
        """Median of the dense engine, which all others are told in."""
        return self._rows[DENSE_KEY].latency_ms.value

    def latency_ms(self, removed: Sequence[Unit]) -> float:
        """Median of one image without these units."""
        return self.measure(removed).latency_ms.value

    def measure(self, removed: Sequence[Unit]) -> Measurement:
        """Latency without these units: from the file, or measured now and written to it."""
        key, widths = self._key_of(removed)
        if key not in self._rows:
            with tempfile.TemporaryDirectory(prefix="espalier-probe-") as scratch:
                self._make_engine(removed, Path(scratch))
                engine = read_engine(Path(scratch))
            timings = self._beside_dense(engine)
            ratio = interleaved_ratio(timings["other"], timings["dense"], _RESAMPLES, self._config.seed)
            latency_ms = Interval(*(self.dense_ms * value for value in (ratio.value, ratio.low, ratio.high)))
            self._rows[key] = Measurement(dict(widths), latency_ms, ratio, timings["other"].rounds_ns.size)
            self._write()
        return self._rows[key]

    def _beside_dense(self, engine: tuple[bytes, EngineInfo]) -> dict[str, Timings]:
        """Latencies of the dense engine and the other."""
        busy = partial(self._progress, 0, 100, "another measurement has the machine")
        info = self._dense[1]
        image = np.random.default_rng(self._config.seed).random((1, *info.input_shape), dtype=np.float32)
        both = {"dense": self._dense, "other": engine}

        def open_all(names: Sequence[str]) -> dict[str, Callable[[], None]]:
            return {name: onnxruntime.open_engine(*both[name], self._host).bind(image) for name in names}

        with measuring_alone(busy), pinned(info.threads):
            return time_reopened(list(both), open_all, self._config, self._progress)

    def _read(self) -> dict[str, Measurement]:
        if self._file.exists():
            raw = read_json(self._file, BundleError)
            try:
                if raw["format"] == FORMAT and raw["of"] == self._of:
                    rows = {key: _measurement(row) for key, row in raw["rows"].items()}
                    return rows if DENSE_KEY in rows else {}
            except (KeyError, TypeError, AttributeError) as cause:
                raise BundleError(str(self._file), "is not a file of latencies", "Remove it") from cause
        return {}

    def _start(self) -> dict[str, Measurement]:
        # Beside itself, so that the reference is taken as every other figure is: with a second engine in the caches.
        found = self._beside_dense(self._dense)["dense"]
        latency_ms = summarize(found.rounds_ns, self._config.seed, found.openings.rounds).p50_ms
        return {DENSE_KEY: Measurement({}, latency_ms, Interval(1.0, 1.0, 1.0), found.rounds_ns.size)}

    def _write(self) -> None:
        rows = {key: asdict(row) for key, row in self._rows.items()}
        write_json(self._file, {"format": FORMAT, "of": self._of, "rows": rows})


def _measurement(raw: dict[str, Any]) -> Measurement:
    latency_ms, ratio = Interval(**raw["latency_ms"]), Interval(**raw["ratio"])
    return Measurement(raw["widths"], latency_ms, ratio, raw["samples"])
