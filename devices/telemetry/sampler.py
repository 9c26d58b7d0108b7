"""Samples telemetry in a process of its own, beside what is measured.

A thread would hold the interpreter while it reads, and its own readings would show as spikes of the queries.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devices.agent_process import python_command
from devices.telemetry.sources import HERE, SourceConfig, Sources

_START_S = 10.0
_STOP_S = 10.0
_READY = "ready"
_SLOW_EVERY = 5


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How telemetry is sampled."""

    rate_hz: float = 10.0
    """Temperatures are read with every fifth sample only."""
    root: Path = HERE
    cpus: tuple[int, ...] = ()
    """CPUs that are measured: their clocks are read, and the sampler keeps off them where there are others."""


@dataclass(frozen=True, kw_only=True)
class RawSamples:
    """What was sampled; plain lists, so that nothing but the standard library is needed."""

    times_ns: tuple[int, ...] = ()
    """By the clock of `time.perf_counter_ns`, which all processes of a Linux share."""
    names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    rows: tuple[tuple[float | None, ...], ...] = ()
    """One a time: values in the order of `names`."""
    absent: tuple[tuple[str, str], ...] = ()
    cpu_share: float = 0.0
    """Of one core, that the sampler took."""
    shares_cpu: bool = False
    """Whether it ran on a CPU that was measured, because there is no other."""


class Sampler:
    """A sampler that runs; `stop` gives what it sampled."""

    def __init__(self, config: SamplerConfig) -> None:
        """Start it and wait until it has read once. What fails is told by `stop`, and nothing is raised."""
        self._process: subprocess.Popen[str] | None = None
        self._fault = ""
        given = {"rate_hz": config.rate_hz, "root": str(config.root), "cpus": config.cpus}
        command = python_command("from devices.telemetry.sampler import main; main()", json.dumps(given))
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        except OSError as cause:
            self._fault = f"the sampler does not start ({cause})"
            return
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], _START_S)
        if not ready or self._process.stdout.readline().strip() != _READY:
            self._fault = "the sampler does not start"
            self._process.kill()

    def stop(self) -> RawSamples:
        """End it; its samples, or why there are none."""
        if self._process is None:
            return RawSamples(absent=(("telemetry", self._fault),))
        try:
            output, _ = self._process.communicate(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return RawSamples(absent=(("telemetry", "the sampler did not end"),))
        try:
            return _decode(json.loads(output.splitlines()[-1]))
        except (ValueError, IndexError, KeyError, TypeError):
            return RawSamples(absent=(("telemetry", self._fault or "the sampler was ended by something else"),))


@contextmanager
def sampling(config: SamplerConfig) -> Iterator[list[RawSamples]]:
    """Sample while the block runs. The list is empty inside it, and holds the samples after."""
    sampler, found = Sampler(config), list[RawSamples]()
    try:
        yield found
    finally:
        found.append(sampler.stop())


def _decode(raw: Any) -> RawSamples:
    return RawSamples(
        times_ns=tuple(raw["times_ns"]),
        names=tuple(raw["names"]),
        units=tuple(raw["units"]),
        rows=tuple(map(tuple, raw["rows"])),
        absent=tuple((name, why) for name, why in raw["absent"]),
        cpu_share=float(raw["cpu_share"]),
        shares_cpu=bool(raw["shares_cpu"]),
    )


def main() -> None:
    """Sample until standard input ends, which it does with the process that started this one; then print JSON."""
    given = json.loads(sys.argv[1])
    cpus = tuple(given["cpus"])
    shares = _keep_off(cpus)
    sources = Sources(SourceConfig(root=Path(given["root"]), cpus=cpus))
    times_ns: list[int] = []
    rows: list[list[float | None]] = []
    step_ns = int(1e9 / given["rate_hz"])
    times_ns.append(time.perf_counter_ns())
    rows.append(sources.read())
    print(_READY, flush=True)
    began, spent_before = time.perf_counter(), _cpu_s()
    due = times_ns[0] + step_ns
    while not select.select([sys.stdin], [], [], max(due - time.perf_counter_ns(), 0) / 1e9)[0]:
        times_ns.append(time.perf_counter_ns())
        rows.append(sources.read(slow_too=len(rows) % _SLOW_EVERY == 0))
        # A reading that was late is not made up for: two at once would tell nothing new.
        due = max(due + step_ns, time.perf_counter_ns())
    wall_s = max(time.perf_counter() - began, 1e-9)
    share = (_cpu_s() - spent_before) / wall_s
    times_ns.append(time.perf_counter_ns())
    rows.append(sources.read())
    result = {
        "times_ns": times_ns,
        "names": [channel.name for channel in sources.channels],
        "units": [channel.unit for channel in sources.channels],
        "rows": rows,
        "absent": [[entry.name, entry.why] for entry in sources.absent],
        "cpu_share": share,
        "shares_cpu": shares,
    }
    # Nobody listens any more where the parent was killed.
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(result), flush=True)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _keep_off(cpus: tuple[int, ...]) -> bool:
    """Run on the machine's other CPUs; returns whether there are none. The parent may be pinned, so ask for all."""
    try:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    except OSError:
        # Outside what a container allows; what was inherited holds.
        return bool(set(cpus) & os.sched_getaffinity(0))
    others = os.sched_getaffinity(0) - set(cpus)
    if others:
        os.sched_setaffinity(0, others)
    return bool(cpus) and not others
