"""What stands beside pure inference: preparing a frame, and moving it to the engine and the answer back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.engines.base import Engine
from devices.latency import LatencyConfig, LatencySummary, measure_interleaved, summarize
from devices.statistics import Interval, bootstrap_ratio

_RESAMPLES = 400


@dataclass(frozen=True)
class HostCosts:
    """Latencies of one frame, measured interleaved, so that they can be compared."""

    inference: LatencySummary
    """Input and output in place: what every other table means by latency."""
    with_copies: LatencySummary
    """From an array of the caller to an array of the caller."""
    preprocess: LatencySummary | None
    """From a frame to that array; None where no frame was given."""
    copies_share: Interval
    """`with_copies` over `inference`, less 1."""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "inference": self.inference.as_dict(),
            "with_copies": self.with_copies.as_dict(),
            "preprocess": self.preprocess.as_dict() if self.preprocess else None,
            "copies_share": self.copies_share.as_dict(),
        }


def measure_host_costs(
    engine: Engine,
    config: LatencyConfig,
    preprocess: Callable[[NDArray[Any]], NDArray[np.float32]] | None = None,
    frame: NDArray[Any] | None = None,
) -> HostCosts:
    """Time the engine with input in place, the engine with copies, and the preprocessing of `frame` if there is one.

    `frame` is what a camera gives, such as (H, W, 3) uint8. Raises `DataError` when the preprocessing refuses it.
    """
    rng = np.random.default_rng(config.seed)
    images = rng.random((1, *engine.info.input_shape), dtype=np.float32)
    queries: dict[str, Callable[[], object]] = {
        "inference": engine.bind(images),
        "with_copies": lambda: engine.run_all(images),
    }
    if preprocess is not None and frame is not None:
        images = preprocess(frame)
        queries["preprocess"] = lambda: preprocess(frame)
    samples = measure_interleaved({name: _silent(call) for name, call in queries.items()}, config)
    summaries = {name: summarize(rounds_ns, config.seed) for name, rounds_ns in samples.items()}
    ratio = bootstrap_ratio(samples["with_copies"], samples["inference"], _RESAMPLES, config.seed)
    return HostCosts(
        inference=summaries["inference"],
        with_copies=summaries["with_copies"],
        preprocess=summaries.get("preprocess"),
        copies_share=replace(ratio, value=ratio.value - 1, low=ratio.low - 1, high=ratio.high - 1),
    )


def _silent(call: Callable[[], object]) -> Callable[[], None]:
    def query() -> None:
        call()

    return query


def host_cost_lines(costs: Mapping[str, Any]) -> list[str]:
    """Medians, given as `as_dict`, one a line."""
    rows = (("inference", "inference"), ("with copies", "with_copies"), ("preprocessing", "preprocess"))
    lines = [f"{name:14} {costs[key]['p50_ms']['value']:.4f} ms" for name, key in rows if costs[key]]
    share = {end: 100 * value for end, value in costs["copies_share"].items()}
    return [*lines, f"copies add {share['value']:.1f} % ({share['low']:.1f} to {share['high']:.1f})"]
