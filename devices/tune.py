"""Options of a session, tuned by measuring: each change beside the usual, interleaved, and kept only where it pays."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from devices.detect import Host
from devices.engine_files import ENGINE_FILE
from devices.engines import onnxruntime
from devices.engines.base import EngineInfo
from devices.engines.ort_options import OrtOptions
from devices.errors import BundleError, DeviceError, ModelError
from devices.files import read_json, write_json
from devices.latency import LatencyConfig, interleaved_ratio, measuring_alone, pinned, time_reopened
from devices.profile_session import SessionProfile
from devices.stage import Progress, StageResult
from devices.statistics import Interval

TUNED_FILE = "tuned.json"
FORMAT = "espalier-tuned/1"
_USUAL = "usual"
_RESAMPLES = 2000
_LEVELS = ("basic", "extended", "all")


@dataclass(frozen=True)
class Trial:
    """One change of the options."""

    option: str
    value: object
    times_as_fast: Interval | None
    """As the usual options, of medians, with its 95 % interval. None where the engine was refused."""
    refused: str = ""
    """Why."""

    @property
    def pays(self) -> bool:
        """Whether even the low end of the interval is a gain."""
        return self.times_as_fast is not None and self.times_as_fast.low > 1


@dataclass(frozen=True)
class Tuned:
    """What was chosen, and what it was chosen by."""

    options: OrtOptions
    trials: tuple[Trial, ...] = ()
    together: Interval | None = None
    """All changes that pay, together, measured anew: times as fast as the usual. None where no change pays."""
    taken: tuple[str, ...] = field(default=())
    """Options that were changed."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "format": FORMAT,
            "provider": self.options.provider,
            "threads": self.options.threads,
            "session": asdict(self.options.session) | {"allow_fallback": list(self.options.session.allow_fallback)},
            "trials": [asdict(trial) for trial in self.trials],
            "together": self.together.as_dict() if self.together else None,
            "taken": list(self.taken),
        }


def changes(options: OrtOptions) -> list[tuple[str, object]]:
    """What is tried: fewer threads than the profile allows, other levels of rewriting, no arena, no spinning."""
    fewer: list[tuple[str, object]] = []
    count = 1
    while count < options.threads:
        fewer.append(("threads", count))
        count *= 2
    levels = [("graph_optimization", level) for level in _LEVELS if level != options.session.graph_optimization]
    found: list[tuple[str, object]] = [*fewer, *levels, ("arena", not options.session.arena)]
    if options.threads > 1:
        found.append(("spinning", not options.session.spinning))
    return found


def with_change(options: OrtOptions, option: str, value: Any) -> OrtOptions:
    """The options with one of them another."""
    if option == "threads":
        return replace(options, threads=value)
    return replace(options, session=replace(options.session, **{option: value}))


def tune_session(
    onnx_path: Path, options: OrtOptions, config: LatencyConfig, host: Host, folder: Path, progress: Progress
) -> StageResult[Tuned]:
    """Measure each change beside the usual options on this graph, then those that pay together, anew.

    An option is changed only where the low end of the interval of its gain is above 1, and all together only where
    that holds again in a measurement of their own: of several trials the luckiest looks better than it is. Writes
    `tuned.json`. Raises `DeviceError` or `ModelError` when the usual engine cannot be built.
    """
    tried = changes(options)
    candidates = {f"{option}={value}": with_change(options, option, value) for option, value in tried}
    ratios, refused = _measure(onnx_path, options, candidates, config, host, progress)
    trials = tuple(
        Trial(option, value, ratios.get(f"{option}={value}"), refused.get(f"{option}={value}", ""))
        for option, value in tried
    )
    chosen = best_changes(trials)
    tuned = Tuned(options, trials)
    if chosen:
        combined = options
        for trial in chosen:
            combined = with_change(combined, trial.option, trial.value)
        again = replace(config, seed=config.seed + 1)
        together = _measure(onnx_path, options, {"combined": combined}, again, host, progress)[0].get("combined")
        holds = together is not None and together.low > 1
        names = tuple(trial.option for trial in chosen) if holds else ()
        tuned = Tuned(combined if holds else options, trials, together, names)
    write_json(folder / TUNED_FILE, tuned.as_dict())
    return StageResult(tuned, tuned.as_dict())


def best_changes(trials: tuple[Trial, ...]) -> list[Trial]:
    """For each option the change that pays most by the low end of its interval; none where none pays."""
    best: dict[str, Trial] = {}
    for trial in trials:
        if trial.times_as_fast is not None and trial.pays:
            known = best.get(trial.option)
            if known is None or known.times_as_fast is None or trial.times_as_fast.low > known.times_as_fast.low:
                best[trial.option] = trial
    return list(best.values())


def read_tuned(folder: Path) -> OrtOptions:
    """The options that were chosen. Raises `BundleError` when the file is missing or malformed."""
    path = folder / TUNED_FILE
    raw = read_json(path, BundleError)
    try:
        if raw["format"] != FORMAT:
            raise BundleError(str(path), f"has format {raw['format']!r:.40}, not {FORMAT!r}", "Run the recipe again")
        session = raw["session"] | {"allow_fallback": tuple(raw["session"]["allow_fallback"])}
        return OrtOptions(provider=str(raw["provider"]), threads=int(raw["threads"]), session=SessionProfile(**session))
    except (KeyError, TypeError, ValueError, OverflowError) as cause:
        raise BundleError(str(path), f"is malformed ({cause})", "Run the recipe again") from cause


def _measure(
    onnx_path: Path,
    usual: OrtOptions,
    candidates: Mapping[str, OrtOptions],
    config: LatencyConfig,
    host: Host,
    progress: Progress,
) -> tuple[dict[str, Interval], dict[str, str]]:
    """Times as fast as the usual, by candidate, and why others were refused."""
    refused: dict[str, str] = {}
    built: dict[str, tuple[bytes, EngineInfo]] = {}
    with tempfile.TemporaryDirectory(prefix="espalier-tune-") as scratch:
        built[_USUAL] = _build(onnx_path, Path(scratch), usual, host)
        for name, options in candidates.items():
            try:
                built[name] = _build(onnx_path, Path(scratch), options, host)
            except (DeviceError, ModelError) as error:
                refused[name] = error.what
    busy = partial(progress, 0, 100, "another measurement has the machine")
    image = np.random.default_rng(config.seed).random((1, *built[_USUAL][1].input_shape), dtype=np.float32)

    def open_all(names: Sequence[str]) -> dict[str, Callable[[], None]]:
        return {name: onnxruntime.open_engine(*built[name], host).bind(image) for name in names}

    with measuring_alone(busy), pinned(usual.threads):
        timings = time_reopened(list(built), open_all, config, progress)
    ratios = {
        name: interleaved_ratio(timings[_USUAL], found, _RESAMPLES, config.seed)
        for name, found in timings.items()
        if name != _USUAL
    }
    return ratios, refused


def _build(onnx_path: Path, scratch: Path, options: OrtOptions, host: Host) -> tuple[bytes, EngineInfo]:
    """The engine's bytes and what it needs, tried once. Raises `DeviceError` and `ModelError`."""
    path = scratch / ENGINE_FILE
    info = onnxruntime.build(onnx_path, path, options, host)
    content = path.read_bytes()
    onnxruntime.open_engine(content, info, host)
    return content, info
