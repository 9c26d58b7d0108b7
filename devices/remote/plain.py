"""A board without a Python for the agent: its shell, `trtexec`, and files by digest. Nothing runs on when we go.

JetPack 4 and 5 have Python 3.6 and 3.8; their TensorRT is served by its command. What is needed there is a POSIX shell
with `setsid`, `flock`, `sha256sum` and `tail`, as Ubuntu has them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, cast

from devices.agent_bootstrap import MARKER_FILE
from devices.errors import BundleError, DeviceError, StorageError
from devices.files import digest_file, storage_errors
from devices.fleet import BoardConfig
from devices.machine_place import PLACE_VARIABLE, USUAL_PLACE
from devices.remote.ssh import LostError, explain, plain_command

_BLOCK_BYTES = 1 << 18
_LEAST_LIMIT_S = 30.0
_SILENT = 255
_REFUSED = 93
_MISPLACED = 94
_WAITING = "espalier: waiting for the place of measurements"
_ROOT = f"""
case "$1" in "~/"*) root="$HOME/${{1#??}}";; *) root="$1";; esac
umask 077
if [ -d "$root" ] && [ ! -f "$root/{MARKER_FILE}" ] && [ -n "$(ls -A "$root")" ]; then
  echo "$root holds files and is not a cache of Espalier" >&2; exit {_REFUSED}
fi
mkdir -p "$root/plain" && touch "$root/{MARKER_FILE}" || exit {_REFUSED}
shift
"""
# As in `devices.machine_place`: made when it is missing, opened to read alone, locked, and still what lies there.
_ALONE = f"""
lock="${{{PLACE_VARIABLE}:-{USUAL_PLACE}}}"
while :; do
  [ -e "$lock" ] || [ -L "$lock" ] || (umask 022; set -C; : >"$lock") 2>/dev/null
  [ -e "$lock" ] || [ -L "$lock" ] || [ -w "${{lock%/*}}" ] || {{ echo "$lock cannot be made" >&2; exit {_MISPLACED}; }}
  if [ -L "$lock" ] || {{ [ -e "$lock" ] && ! [ -f "$lock" -a -r "$lock" ]; }}; then
    echo "$lock is not the file that measurements lock" >&2; exit {_MISPLACED}
  fi
  {{ command exec 9<"$lock"; }} 2>/dev/null || continue
  flock -n 9 || {{ echo '{_WAITING}' >&2; flock 9; }}
  [ "$(stat -c %d:%i "$lock" 2>/dev/null)" = "$(stat -L -c %d:%i /proc/self/fd/9)" ] && break
  exec 9<&-
done
"$@" 9<&-
code=$?
rm -f "$lock" 2>/dev/null
exit $code
"""
# A job of the shell has no standard input unless it is given one. The end of ours ends the command with all its own.
_RUN = f"""
exec 3<&0
setsid sh -c {shlex.quote(_ALONE)} sh "$@" </dev/null &
job=$!
(cat <&3 >/dev/null; kill -9 -$job) >/dev/null 2>&1 &
watch=$!
wait $job
code=$?
kill $watch 2>/dev/null
exit $code
"""
_HELD = """
if [ -f "$root/plain/$1" ]; then echo whole; elif [ -f "$root/plain/$1.partial" ]; then wc -c <"$root/plain/$1.partial"
else echo 0; fi
echo "$root/plain/$1"
"""
_TAKE = """
cd "$root/plain" && tail -c +1 >>"$1.partial" || exit 92
if [ "$(sha256sum <"$1.partial" | cut -c 1-64)" = "$1" ]; then mv "$1.partial" "$1"; echo whole
elif [ "$(wc -c <"$1.partial")" -ge "$2" ]; then rm "$1.partial"; echo damaged; else echo part; fi
"""
_GIVE = 'tail -c +"$2" "$1"\n'
_CLEAN = 'rm -rf "$root"\n'


class PlainBoard:
    """A board by its shell alone. Each call is a connection of its own."""

    def __init__(self, config: BoardConfig, say: Callable[[str], None]) -> None:
        """`say` is told when another measurement there is waited for."""
        self.config, self._say = config, say
        self.where = f"board '{config.name}'"

    def run(self, command: list[str]) -> tuple[int, str]:
        """Run a command there, alone on the board; exit code, and all that it printed.

        Raises `DeviceError` at the board's time limit, `LostError` when the connection is lost, `StorageError` where
        the machine's place for measurements cannot be locked.
        """
        return self._call(_RUN, command, self.config.limit_s)

    def send(self, path: Path) -> str:
        """Put a file there, unless it is; what had arrived before is not sent again. Returns its path on the board.

        Raises `LostError`, and `StorageError` when it cannot be kept.
        """
        digest, size = digest_file(path), path.stat().st_size
        for _ in range(2):
            _, printed = self._checked(_HELD, [digest])
            held, place = printed.split("\n")[:2]
            if held == "whole":
                return place
            with open(path, "rb") as stream:
                stream.seek(min(int(held), size))
                _, printed = self._checked(_TAKE, [digest, str(size)], stream)
            if printed.strip() == "whole":
                return place
        if digest_file(path) != digest:
            raise BundleError(str(path), "changed while it was sent", "Run the same command again")
        raise StorageError(f"{self.where}: {place}", "does not arrive whole", "Check the board's disk")

    def fetch(self, place: str, target: Path) -> None:
        """Get a file from there, whole or not at all. Raises `LostError`, `DeviceError`, `StorageError`."""
        _, printed = self._checked('sha256sum "$1"\n', [place])
        digest = printed[:64]
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise DeviceError(f"{self.where}: {place}", "has no digest", "Install sha256sum there")
        partial = target.parent / f".{target.name}.{digest[:16]}"
        with storage_errors(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(partial, "ab") as stream:
                self._checked(_GIVE, [place, str(stream.tell() + 1)], output=stream)
            if digest_file(partial) != digest:
                partial.unlink()
                raise DeviceError(f"{self.where}: {place}", "arrived damaged", "Run the same command again")
            os.replace(partial, target)

    def clean(self) -> None:
        """Remove the cache folder from the board."""
        self._checked(_CLEAN, [])

    def _checked(
        self, script: str, arguments: list[str], content: IO[bytes] | None = None, output: IO[bytes] | None = None
    ) -> tuple[int, str]:
        limit_s = max(self.config.limit_s, _LEAST_LIMIT_S)
        code, printed = self._call(script, arguments, limit_s, content, output)
        if code != 0:
            full = "No space left" in printed or "quota exceeded" in printed.lower()
            what = "the disk is full" if full else f"a command there failed ({_last(printed)})"
            raise StorageError(f"{self.where}: {self.config.cache}", what, "Free some space, or choose another cache")
        return code, printed

    def _call(
        self,
        script: str,
        arguments: list[str],
        limit_s: float,
        content: IO[bytes] | None = None,
        output: IO[bytes] | None = None,
    ) -> tuple[int, str]:
        remote = shlex.join(["sh", "-c", _ROOT + script, "sh", self.config.cache, *arguments])
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            plain_command(self.config, remote),
            stdin=pipe,
            stdout=output or pipe,
            stderr=subprocess.STDOUT if output is None else pipe,
            start_new_session=True,
        )
        printed: list[bytes] = []
        stream = process.stdout if output is None else process.stderr
        reader = threading.Thread(target=self._read, args=(stream, printed), daemon=True)
        reader.start()
        try:
            if content is not None:
                _pour(content, cast("IO[bytes]", process.stdin))
            code = process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            what = f"took longer than its limit of {limit_s:g} s, and was ended"
            raise DeviceError(f"{self.where}: {' '.join(arguments):.80}", what, "Raise limit_s in fleet.toml") from None
        finally:
            _end(process)
            reader.join(timeout=5)
            cast("IO[bytes]", stream).close()
        text = b"".join(printed).decode(errors="replace")
        if code == _SILENT:
            error = explain(self.config, code, text)
            raise error if not isinstance(error, LostError) else LostError(self.where, error.what, error.fix)
        if code == _REFUSED:
            raise StorageError(f"{self.where}: {self.config.cache}", _last(text), "Choose another cache folder")
        if code == _MISPLACED:
            raise StorageError(self.where, _last(text), "Look at it there, and remove it")
        return code, text

    def _read(self, stream: IO[bytes], printed: list[bytes]) -> None:
        for line in stream:
            if line.strip() == _WAITING.encode():
                self._say(f"{self.where}: waiting for another measurement there")
            else:
                printed.append(line)


def _pour(content: IO[bytes], pipe: IO[bytes]) -> None:
    # When nobody reads any more, the exit code says why.
    with contextlib.suppress(BrokenPipeError):
        while block := content.read(_BLOCK_BYTES):
            pipe.write(block)
        pipe.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close its input, which ends what runs on the board, and then it."""
    with contextlib.suppress(OSError, ValueError):
        cast("IO[bytes]", process.stdin).close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "without a message"
