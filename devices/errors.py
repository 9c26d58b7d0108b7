"""Errors that a user sees, and the exit code of each.

An error says where (a field or a file), what is wrong, and what to do. Nothing below the command line
prints; the command line prints the message alone and exits with the code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

EXIT_OK = 0
EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_REFUSED = 10
EXIT_SIGNS = 11
EXIT_INTERRUPTED = 130


class EspalierError(Exception):
    """Base of every error with a message for the user.

    `where` names the field or file, `what` says what is wrong, `fix` what to do about it.
    """

    exit_code = EXIT_INTERNAL
    kind = "error"

    def __init__(self, where: str, what: str, fix: str = "") -> None:
        self.where = where
        self.what = what
        self.fix = fix
        sentences = [f"{where}: {what}", fix] if fix else [f"{where}: {what}"]
        super().__init__(" ".join(_sentence(text) for text in sentences))

    def __reduce__(self) -> tuple[type[EspalierError], tuple[str, str, str]]:
        # The default gives the finished message to __init__, and no error would come back from another process.
        return type(self), (self.where, self.what, self.fix)


def shown(text: str) -> str:
    """One line that a terminal shows as it is: a name that others gave can hold anything, escape codes too."""
    line = re.sub(r"\s*[\r\n]+\s*", " ", text)
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)


def shown_lines(lines: Iterable[str]) -> str:
    """Text of several lines, each as `shown` leaves it."""
    return "\n".join(map(shown, lines))


def _sentence(text: str) -> str:
    """One line that ends like a sentence."""
    line = shown(text.strip())
    return line if line.endswith("?") else line.rstrip(".") + "."


class RecipeError(EspalierError):
    """The recipe, or a value given with `--set`, cannot be used."""

    exit_code = 3
    kind = "recipe error"


class ModelError(EspalierError):
    """The network or its weights cannot be used."""

    exit_code = 4
    kind = "model error"


class DataError(EspalierError):
    """The data set cannot be used."""

    exit_code = 5
    kind = "data error"


class DeviceError(EspalierError):
    """The device, its profile or an engine for it cannot be used on this host."""

    exit_code = 6
    kind = "device error"


class BundleError(EspalierError):
    """A bundle or a run folder is damaged, incomplete, unsigned or from another format."""

    exit_code = 7
    kind = "bundle error"


class ParityError(EspalierError):
    """Two forms of the same network disagree by more than the recipe allows."""

    exit_code = 8
    kind = "parity error"


class StorageError(EspalierError):
    """The disk is full, a folder cannot be written, or another run holds it."""

    exit_code = 9
    kind = "storage error"


EXIT_CODES: tuple[tuple[int, str], ...] = (
    (EXIT_OK, "done; for a run: every budget of the gate is met"),
    (EXIT_INTERNAL, "a fault of Espalier itself (repeat with --debug and report it)"),
    (EXIT_USAGE, "the command line is wrong"),
    (RecipeError.exit_code, "the recipe, or a --set value, is wrong"),
    (ModelError.exit_code, "the network or its weights cannot be used"),
    (DataError.exit_code, "the data set cannot be used"),
    (DeviceError.exit_code, "the device, its profile or its engine cannot be used here"),
    (BundleError.exit_code, "a bundle or run folder is damaged, incomplete, unsigned or by nobody who is trusted"),
    (ParityError.exit_code, "a step changed the network's answers by more than allowed"),
    (StorageError.exit_code, "disk full, folder not writable"),
    (EXIT_REFUSED, "the gate refused a run, nothing was asked of what should be released, or a run was not reproduced"),
    (EXIT_SIGNS, "a scan found signs of a backdoor"),
    (EXIT_INTERRUPTED, "interrupted (Ctrl-C); the next run goes on from there"),
)
