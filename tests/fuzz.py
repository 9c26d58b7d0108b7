"""Inputs for every reader of a file that somebody else may have written: valid ones, mutated, by a seed.

A reader may return or raise an `EspalierError`. Anything else, a hang, or more than 1 GiB of memory is a fault.
"""

from __future__ import annotations

import copy
import json
import random
import resource
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devices.errors import EspalierError

ROOT = Path(__file__).parent.parent
HANGS_S = 20
MEMORY_BYTES = 1 << 30
_DEPTHS = (50, 300, 900, 985, 990, 995, 5000)
_TEXTS = ["", " ", "\0", "../../etc/passwd", "/dev/zero", "x" * 70_000, "\x1b[2J", "\u202e", "é", "nan", "a:b", "{0.x}"]
_NUMBERS: list[Any] = [0, -1, 1, 2**31, 2**63, 2**64, 10**30, -(10**30), 0.5, -0.0, 1e308, 5e-324]
_VALUES: list[Any] = [*_TEXTS, *_NUMBERS, True, False, [], {}, [[]], [{}], {"": {}}, [0] * 5000, float("nan")]
_VALUES += [float("inf"), -float("inf"), None, "\udcff"]
_BYTES = [b"\0", b"\xff", b"\xef\xbb\xbf", b"\r", b"\n", b'"', b"[", b"]", b"{", b"}", b"=", b".", b"'''", b"9" * 5000]
_BYTES += [b"1e999999999", b"\\u0000", b"\\ud800", b"-", b"#", b"1979-05-27T07:32:00Z", b"0001-01-01", b"inf", b"nan"]


@dataclass(frozen=True)
class Reader:
    """What is read: valid contents of a file, and a call that lays one out in a folder and reads it."""

    name: str
    valid: tuple[bytes, ...]
    read: Callable[[bytes, Path], object]
    kind: str
    """`json`, `toml` or `bytes`."""


def case(reader: Reader, seed: int, index: int) -> bytes:
    """The input of this number."""
    rng = random.Random(f"{reader.name} {seed} {index}")
    content = rng.choice(reader.valid)
    if rng.random() < 0.05:
        return rng.randbytes(rng.randrange(300))
    if reader.kind == "json" and rng.random() < 0.7:
        for _ in range(rng.randrange(1, 4)):
            # Read again, so that no two places share what the next change changes.
            content = json.dumps(_mutated(json.loads(content), rng)).encode()
        return content
    if reader.kind == "toml" and rng.random() < 0.7:
        return _lines_mutated(content.decode(), rng).encode("utf-8", "surrogatepass")
    return _bytes_mutated(content, rng)


def _value(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(_VALUES))


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(pairs):
        yield tree, key
        yield from _places(value)


def _mutated(tree: Any, rng: random.Random) -> Any:
    places = list(_places(tree))
    if not places or rng.random() < 0.03:
        return _value(rng)
    holder, key = rng.choice(places)
    way = rng.randrange(5)
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder, dict):
        holder[rng.choice(_TEXTS)] = holder.pop(key)
    elif way == 2 and isinstance(holder, list):
        holder += [holder[key]] * rng.choice((1, 300))
    elif way == 3:
        deep: Any = _value(rng)
        for _ in range(rng.choice(_DEPTHS[:-1]) if rng.random() < 0.3 else 3):
            deep = [deep] if rng.random() < 0.5 else {"a": deep}
        # Written by hand below: a tree so deep is more than the writer takes.
        holder[key] = deep if _depth(deep) < 900 else _value(rng)
    else:
        holder[key] = _value(rng)
    return tree


def _depth(tree: Any) -> int:
    count = 0
    while isinstance(tree, (list, dict)) and tree:
        tree, count = (tree[0] if isinstance(tree, list) else next(iter(tree.values()))), count + 1
    return count


def _lines_mutated(text: str, rng: random.Random) -> str:
    lines = text.splitlines()
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(lines))
        key, equals, _ = lines[at].partition("=")
        way = rng.randrange(6)
        depth = rng.choice(_DEPTHS)
        if way == 0:
            lines[at] = ""
        elif way == 1:
            lines.insert(rng.randrange(len(lines)), lines[at])
        elif way == 2:
            lines[at] = rng.choice((f"[{'a.' * depth}b]", f"{'a.' * depth}b = 1", f"[[{key.strip()}]]"))
        elif way == 3 and equals:
            lines[at] = f"{key}= {'[' * depth}{']' * depth}"
        elif equals:
            lines[at] = f"{key}= {_toml(rng.choice(_VALUES))}"
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return "1979-05-27" if value is None else json.dumps(value)


def _bytes_mutated(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(changed) + 1)
        way = rng.randrange(4)
        if way == 0 and changed:
            changed[min(at, len(changed) - 1)] = rng.randrange(256)
        elif way == 1:
            changed[at:at] = rng.choice(_BYTES)
        elif way == 2:
            del changed[at : at + rng.choice((1, 10, 1000))]
        else:
            changed[at:at] = rng.choice((b"[", b'{"a":', b"(", b"a.")) * rng.choice(_DEPTHS)
    return bytes(changed)


class HangError(BaseException):
    """A reader that did not end; no reader may catch it."""


@contextmanager
def _deadline() -> Iterator[None]:
    def ring(signal_number: int, frame: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(HANGS_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fault_of(reader: Reader, content: bytes, folder: Path) -> str | None:
    """The traceback of a reader that did what it may not; None for one that read or refused it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with _deadline():
            reader.read(content, folder)
    except EspalierError as error:
        return None if str(error).isprintable() else f"its message is not printable: {error!r}"
    # Whatever it is, it is what is looked for.
    except (Exception, HangError):  # noqa: BLE001
        return traceback.format_exc()
    return None


def limit_memory() -> None:
    """From here on this process may take 1 GiB more than it has."""
    (pages, *_) = Path("/proc/self/statm").read_text().split()
    most = int(pages) * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
