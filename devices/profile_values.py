"""Single values of a profile: type, range, form. What is wrong is said with the unit."""

from __future__ import annotations

import difflib
import re
from typing import Any, Literal, get_args, get_origin

from devices.errors import DeviceError

HIGHEST = 1_000_000
"""No number of a profile comes near it; a library's counter would overflow far above."""
MAY_BE_ZERO = {"hardware.dla_cores", "latency_table.overhead_ms_per_layer", "session.device_id"}
MAY_REPEAT = {"latency_table.ms_per_gmac"}
# Between them lies every device that there is; outside, somebody wrote GHz for MHz or MB for GB.
BOUNDS: dict[str, tuple[float, float, str]] = {
    "engine.workspace_mb": (16, 1_000_000, "MiB"),
    "hardware.gpu_clock_mhz": (50, 10_000, "MHz"),
    "hardware.int8_tops": (0.01, 100_000, "TOPS"),
    "hardware.fp16_tflops": (0.01, 100_000, "TFLOPS"),
    "hardware.fp32_tflops": (0.01, 10_000, "TFLOPS"),
    "hardware.fp8_tflops": (0.01, 100_000, "TFLOPS"),
    "hardware.bandwidth_gb_s": (1, 20_000, "GB/s"),
    "hardware.l2_cache_mb": (0.05, 1_000, "MB"),
    "hardware.memory_gb": (0.25, 2_000, "GB"),
    "session.memory_limit_mb": (16, 1_000_000, "MiB"),
}
FORMS: dict[str, tuple[str, str]] = {
    "name": (r"[a-z0-9]+([._-][a-z0-9]+)*", "lower-case letters and digits, parted by '-', '_' or '.'"),
    "hardware.compute_capability": (r"\d+\.\d+", "two numbers such as '8.7'"),
    "engine.versions": (r"\d+(\.\d+){0,3}", "versions such as '8.6'"),
    "engine.jetpack": (r"\d+(\.\d+){0,2}", "releases such as '6' or '5.1'"),
}
_EXPRESSIONS = {"recognise.device_tree_model", "recognise.gpu_name"}
_SCALARS: dict[type, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,), bool: (bool,)}
_EXAMPLES = {int: "a whole number", float: "a number", str: "it in quotes", bool: "true or false"}


def checked(key: str, hint: Any, value: Any, where: str) -> Any:
    """The value of a key of this type; a list becomes a tuple. Raises `DeviceError` at `where`."""
    alternatives = [kind for kind in get_args(hint) if kind is not type(None)]
    if type(None) in get_args(hint):
        hint = alternatives[0]
    if get_origin(hint) is not tuple:
        return _scalar(key, hint, value, where)
    if not isinstance(value, list) or not value:
        raise DeviceError(where, "must be a list with at least one value", f"Write {key} = [...]")
    items = tuple(_scalar(key, get_args(hint)[0], item, where) for item in value)
    twice = next((item for index, item in enumerate(items) if item in items[:index]), None)
    if twice is not None and key not in MAY_REPEAT:
        raise DeviceError(where, f"holds {twice!r} twice", "Remove one")
    return items


def unit_of(key: str) -> str:
    """Of a key such as `hardware.memory_gb`; empty where it has none."""
    return BOUNDS[key][2] if key in BOUNDS else ""


def _scalar(key: str, hint: Any, value: Any, where: str) -> Any:
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    wanted: type = str if choices else hint
    if isinstance(value, bool) != (wanted is bool) or not isinstance(value, _SCALARS[wanted]):
        what = f"must be of type {wanted.__name__}, not {shown_value(value)}"
        raise DeviceError(where, what, f"Write {_EXAMPLES[wanted]}")
    if isinstance(value, str):
        _check_text(key, choices, value, where)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        _check_number(key, value, where)
    return value


def shown_value(value: Any) -> str:
    """A value of a TOML file, for a message."""
    try:
        return f"{value!r:.80}"
    except ValueError:
        # Python writes no integer of more than 4300 digits.
        return "so long a number"


def _check_number(key: str, value: float, where: str) -> None:
    # Written so that "not a number" fails too.
    if not (0 < value <= HIGHEST or (value == 0 and key in MAY_BE_ZERO)):
        lowest = "0 or more" if key in MAY_BE_ZERO else "above 0"
        what = f"must be {lowest} and at most {HIGHEST}, not {shown_value(value)}"
        raise DeviceError(where, what, "Leave out what is unknown")
    least, most, unit = BOUNDS.get(key, (0, HIGHEST, ""))
    if not least <= value <= most:
        what = f"{shown_value(value)} {unit} is no device's; it must be at least {least:g} and at most {most:g}"
        raise DeviceError(where, what, f"Give it in {unit}")


def _check_text(key: str, choices: tuple[str, ...], value: str, where: str) -> None:
    if choices and value not in choices:
        near = difflib.get_close_matches(value, choices, n=1, cutoff=0.4)
        hint = f"Did you mean '{near[0]}'?" if near else ""
        raise DeviceError(where, f"'{value:.80}' is not one of {', '.join(choices)}", hint)
    if not value.strip():
        raise DeviceError(where, "is empty", "Leave out what is unknown")
    if key in FORMS and not re.fullmatch(FORMS[key][0], value, re.ASCII):
        raise DeviceError(where, f"must be {FORMS[key][1]}, not {value!r:.80}")
    if key in _EXPRESSIONS:
        try:
            re.compile(value)
        except (re.error, RecursionError, OverflowError) as cause:
            raise DeviceError(where, f"is not a regular expression ({cause})", "Escape special characters") from cause
