"""Libraries that talk: kept quiet, and quoted in one line when they fail."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep progress, notices, advice and deprecation warnings of libraries to themselves; errors are raised."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    talk = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            _compiled_code_quiet(),
            contextlib.redirect_stdout(talk),
            contextlib.redirect_stderr(talk),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def _compiled_code_quiet() -> Iterator[None]:
    """The same for what C++ prints: a graph that PyTorch's older exporter gives up on, a failure that is raised too."""
    with contextlib.ExitStack() as stack:
        for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
            # Closed standard streams stay closed.
            with contextlib.suppress(OSError):
                kept = os.dup(descriptor)
                stack.callback(os.close, kept)
                stack.callback(os.dup2, kept, descriptor)
                if stream is not None:
                    stream.flush()
                with open(os.devnull, "wb") as nowhere:
                    os.dup2(nowhere.fileno(), descriptor)
        yield


def first_line(cause: BaseException) -> str:
    """The first line of what lies at the root of an exception, or its name when it says nothing."""
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = _ESCAPES.sub("", str(cause)).strip().splitlines()
    return lines[0] if lines else type(cause).__name__
