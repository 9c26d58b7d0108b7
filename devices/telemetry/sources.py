"""All readers of this device together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from devices.telemetry.channel import Absent, Channel, Found
from devices.telemetry.clocks import clock_channels
from devices.telemetry.nvml import load_nvml, nvml_channels
from devices.telemetry.rails import rail_channels
from devices.telemetry.rapl import rapl_channels
from devices.telemetry.thermal import thermal_channels
from devices.telemetry.throttle import throttle_channels

HERE = Path("/")


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Where telemetry is read from."""

    root: Path = HERE
    """Another root is a recorded tree; NVML is asked only for this machine's."""
    cpus: tuple[int, ...] = ()
    """CPUs whose clocks are read; none given: one of each group that shares a clock."""


class Sources:
    """Every channel of the device, open; close it when done."""

    def __init__(self, config: SourceConfig) -> None:
        """What cannot be opened is absent; nothing is raised."""
        root = config.root
        openers: tuple[tuple[str, Callable[[], Found]], ...] = (
            ("clock", lambda: clock_channels(root, config.cpus)),
            ("temperature", lambda: thermal_channels(root)),
            ("power", lambda: rail_channels(root)),
            ("energy", lambda: rapl_channels(root)),
            ("throttle", lambda: throttle_channels(root)),
            ("nvml", lambda: nvml_channels(load_nvml()) if root == HERE else Found()),
        )
        channels: dict[str, Channel] = {}
        absent: list[Absent] = []
        for kind, opener in openers:
            found = _opened(kind, opener)
            for channel in found.channels:
                if channel.name in channels:
                    channel.read.close()
                else:
                    channels[channel.name] = channel
            absent += found.absent
        self.channels = tuple(channels.values())
        self.absent = (*absent, *_missing_kinds(self.channels, absent))

    def read(self, slow_too: bool = True) -> list[float | None]:
        """Every channel, now, in the order of `channels`; without the slow ones, which are temperatures, if asked."""
        return [channel.read() if slow_too or not channel.is_slow else None for channel in self.channels]

    def close(self) -> None:
        """Let go of every file."""
        for channel in self.channels:
            channel.read.close()


def read_once(config: SourceConfig) -> tuple[dict[str, float], tuple[Absent, ...]]:
    """Every figure that the device gives now, by the channel's name, and what it does not give."""
    sources = Sources(config)
    try:
        values = sources.read()
        named = zip(sources.channels, values, strict=True)
        return {channel.name: value for channel, value in named if value is not None}, sources.absent
    finally:
        sources.close()


def _opened(kind: str, opener: Callable[[], Found]) -> Found:
    try:
        return opener()
    except OSError as cause:
        # A folder that may not be listed, or went away meanwhile.
        return Found(absent=(Absent(kind, (cause.strerror or str(cause)).lower()),))


def _missing_kinds(channels: tuple[Channel, ...], absent: list[Absent]) -> list[Absent]:
    """A kind of figure of which there is none, and nothing yet says why."""
    there = {channel.name.split(".")[0] for channel in channels}
    said = {entry.name.split(".")[0] for entry in absent}
    kinds = ("clock", "temperature", "throttle")
    rows = [Absent(kind, "this system shows none") for kind in kinds if kind not in there | said]
    if not there & {"power", "energy"} and not said & {"power", "energy"}:
        rows.append(Absent("power", "this system shows none"))
    return rows
