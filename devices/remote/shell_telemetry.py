"""What a board without an agent tells of itself, right before and after a command, by the readers of `telemetry`.

Between the two nothing is sampled: a board that was slowed for a moment, and no more, is not found out."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from devices.engines.trtexec import Command
from devices.telemetry.conditions import Conditions, read_conditions
from devices.telemetry.findings import find_conditions
from devices.telemetry.series import Series
from devices.telemetry.sources import SourceConfig, Sources

ROOT = "/"
_FILES = (
    "sys/devices/system/cpu/cpufreq/policy*/*",
    "sys/class/devfreq/*/*freq*",
    "sys/class/devfreq/*/governor",
    "sys/class/thermal/*/type",
    "sys/class/thermal/*/temp",
    "sys/class/thermal/*/trip_point_*",
    "sys/class/thermal/*/cur_state",
    "sys/class/hwmon/*/name",
    "sys/class/hwmon/*/*_label",
    "sys/class/hwmon/*/*_input",
    "sys/class/hwmon/*/oc*_event_cnt",
    "sys/kernel/debug/bpmp/debug/clk/emc/rate",
    "sys/bus/i2c/devices/*/iio:device*/rail_name_*",
    "sys/bus/i2c/devices/*/iio:device*/in_power*_input",
    "etc/nvpmodel.conf",
    "var/lib/nvpmodel/status",
    "proc/loadavg",
)
_AFTER = "espalier: after"
# Every line with its file's name before it; what is not there is not said.
_SCRIPT = f"""
root="$1"; shift
look() {{ (cd "$root" && grep -a -s -d skip -H -Z "" {" ".join(_FILES)}); }}
look
"$@"
code=$?
printf '\\n{_AFTER}\\n'
look
exit $code
"""


@dataclass
class Watched:
    """A `Command` that runs the first of its commands between two looks at the board, and the others as they are."""

    run: Command
    power_mode: str | None
    """The mode that the board should be in."""
    found: dict[str, Any] = field(default_factory=dict)
    """In the form of `devices.telemetry.watch.Watched`; empty before the first command."""

    def __call__(self, words: list[str]) -> tuple[int, str]:
        """Exit code, and what the command alone printed."""
        if self.found:
            return self.run(words)
        code, printed = self.run(["sh", "-c", _SCRIPT, "sh", ROOT, *words])
        start, _, end = printed.partition(f"\n{_AFTER}\n")
        lines = start.split("\n")
        self.found = _compared(_files(lines), _files(end.split("\n")), self.power_mode)
        return code, "\n".join(line for line in lines if "\0" not in line)


def _files(lines: list[str]) -> dict[str, str]:
    """Content by path, of the lines that a look printed."""
    found: dict[str, str] = {}
    for line in lines:
        path, between, text = line.partition("\0")
        if between and ".." not in PurePosixPath(path).parts and not path.startswith("/"):
            found[path] = found.get(path, "") + f"{text}\n"
    return found


def _compared(before: dict[str, str], after: dict[str, str], power_mode: str | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="espalier-board-") as scratch:
        looks = [_look(files, Path(scratch, name)) for name, files in (("before", before), ("after", after))]
    (first, units, values), (last, _, later) = looks
    rows = {name: np.array([values[name], later.get(name, np.nan)]) for name in values}
    series = Series(np.array([0, 1], dtype=np.int64), rows, units)
    # The clock that was judged with the rest is this machine's.
    findings = [one for one in find_conditions(first, last, series, power_mode) if one.kind != "wall_clock"]
    states = {"before": first.as_dict(), "after": last.as_dict()}
    return {
        "findings": [finding.as_dict() for finding in findings],
        "figures": {name: figure.as_dict() for name, figure in series.figures().items()},
        **{name: {key: value for key, value in state.items() if key != "wall_clock"} for name, state in states.items()},
        "absent": {entry.name: entry.why for entry in first.absent},
        "samples": len(looks),
    }


def _look(files: dict[str, str], root: Path) -> tuple[Conditions, dict[str, str], dict[str, float]]:
    """Conditions, units and figures of the board, whose files are laid out below `root` for the readers."""
    root.mkdir()
    for path, content in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content, encoding="utf-8")
    config = SourceConfig(root=root)
    sources = Sources(config)
    try:
        read = zip(sources.channels, sources.read(), strict=True)
        known = {channel.name: value for channel, value in read if value is not None}
        units = {channel.name: channel.unit for channel in sources.channels}
    finally:
        sources.close()
    return read_conditions(config), units, known
