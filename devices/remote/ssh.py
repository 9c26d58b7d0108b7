"""The system's own ssh: the command for it, and what its messages mean.

Configuration, agent, jump hosts and known hosts are the user's. Passwords are never asked for, because nobody may be
there to type one, and host keys are never skipped.
"""

from __future__ import annotations

import re
import shlex
import shutil

from devices.errors import DeviceError
from devices.fleet import BoardConfig

# In quotes that every login shell takes alike, so it holds none of them. It must run in any Python, to say which it is.
LOADER = (
    "import sys;"
    'sys.version_info<(3,10) and sys.exit("Python %s is too old"%sys.version.split()[0]);'
    "sys.path[:]=filter(None,sys.path);"
    "import json;"
    "line=json.loads(sys.stdin.buffer.readline());"
    "exec(line[0]);"
    "start(line[1])"
)
_OPTIONS = {
    "ConnectTimeout": "15",
    # A connection without signs of life ends, instead of waiting for hours.
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "4",
    # An open connection of the user's is used; none is left behind.
    "ControlMaster": "no",
    "ClearAllForwardings": "yes",
    "RequestTTY": "no",
}
_KEY_CHANGED = "another key than the one that ssh knows of it"


class LostError(DeviceError):
    """The board cannot be reached, or no more: it may be reached again in a while."""


def ssh_command(board: BoardConfig, mark: str) -> list[str]:
    """The command that starts the agent's loader on the board, `mark` in it. Raises `DeviceError` without ssh."""
    return plain_command(board, remote_command(board, mark))


def end_command(board: BoardConfig, mark: str) -> list[str]:
    """The command that ends, on the board, what was started with that mark, and all of its group.

    Nothing there tells a command that never reads its input that we are gone.
    """
    # In brackets, so that its own command line does not match.
    pattern = f"[{mark[0]}]{mark[1:]}"
    each = f"for group in $(pgrep -f {shlex.quote(pattern)}); do kill -TERM -$group; sleep 1; kill -KILL -$group; done"
    return plain_command(board, f"sh -c {shlex.quote(each)}")


def plain_command(board: BoardConfig, remote: str) -> list[str]:
    """The command that has the board's login shell run `remote`. Raises `DeviceError` without ssh."""
    ssh = shutil.which("ssh")
    if ssh is None:
        raise DeviceError("ssh", "is not installed here", "Install OpenSSH's client: apt install openssh-client")
    ours = [part for name, value in _OPTIONS.items() for part in ("-o", f"{name}={value}")]
    # The first of two values counts: the user's options may change ours, but nothing may ask for a password.
    return [ssh, "-T", "-o", "BatchMode=yes", *board.ssh_options, *ours, "--", board.host, remote]


def remote_command(board: BoardConfig, mark: str) -> str:
    """What the board's login shell runs."""
    return f"{board.python} -c {shlex.quote(f'{LOADER} # {mark}')}"


def explain(board: BoardConfig, code: int, words: str) -> DeviceError:
    """The error for an ssh that ended with that exit code before the agent spoke; `words` is its standard error."""
    where = f"board '{board.name}' ({board.host})"
    shown = _last_line(words)
    if code != 255:
        return _interpreter_error(board, code, words, f"{where}: python")
    by_hand = shlex.join(["ssh", *board.ssh_options, board.host])
    for pattern, what, fix, passing in _meanings(by_hand):
        if re.search(pattern, words):
            return (LostError if passing else DeviceError)(where, f"{what} ({shown})", fix)
    return LostError(where, f"ssh ended: {shown}", f"Try `{by_hand}` by hand")


def _meanings(by_hand: str) -> tuple[tuple[str, str, str, bool], ...]:
    """Pattern of ssh's message, what it means, what to do, and whether it may pass."""
    keys = f"Put a key of yours on the board (ssh-copy-id), so that `{by_hand}` asks for nothing"
    return (
        (
            "IDENTIFICATION HAS CHANGED",
            f"it shows {_KEY_CHANGED}: another machine answers, or the board was set up anew",
            f"Find out which. If it was set up anew, remove the old key as `{by_hand}` tells, and compare the new one",
            False,
        ),
        (
            "Host key verification failed|No .* host key is known",
            "ssh does not know its host key",
            f"Connect once by hand with `{by_hand}`, and compare the key's fingerprint with the board's own",
            False,
        ),
        ("Too many authentication failures", "it refuses so many keys in a row", "Name one: IdentityFile", False),
        (r"Permission denied \(", "it does not let us in: no key that it knows, and no password is typed", keys, False),
        ("Could not resolve hostname", "there is no host of this name", "Check the name, and ~/.ssh/config", False),
        (
            "Bad owner or permissions|[Bb]ad configuration option|Bad .* argument",
            "ssh cannot be set up",
            "Mend it",
            False,
        ),
        (
            "Connection refused",
            "nothing answers at ssh's port",
            "Check that the board is on, runs an ssh server, and that the port is right",
            True,
        ),
        (
            "timed out|No route to host|Network is unreachable|Host is down",
            "it does not answer",
            "Check that it is on and in the same network",
            True,
        ),
    )


def _interpreter_error(board: BoardConfig, code: int, words: str, where: str) -> DeviceError:
    shown = _last_line(words)
    fix = "Name an interpreter of Python 3.10 or later that has numpy and the engine's runtime: `python` in fleet.toml"
    if old := re.search(r"Python (\d\S*) is too old", words):
        return DeviceError(where, f"'{board.python}' is Python {old.group(1)}, and the agent needs 3.10", fix)
    if code in (126, 127):
        return DeviceError(where, f"the board cannot start '{board.python}' ({shown})", fix)
    return DeviceError(where, f"'{board.python}' did not start the agent (exit code {code}: {shown})", fix)


def _last_line(words: str) -> str:
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "without a message"
