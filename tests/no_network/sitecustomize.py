"""For runs of the drill recipe: a connection to another machine is refused and written down.

Python imports this first in every process that has this folder in PYTHONPATH, and so in all that a run starts.
"""

from __future__ import annotations

import os
import socket
from typing import Any

_LOG = os.environ.get("ESPALIER_TEST_CONNECTIONS")
_HERE = ("127.", "::1", "localhost")


def _guarded(name: str) -> Any:
    original = getattr(socket.socket, name)

    def reach(self: socket.socket, *given: Any) -> Any:
        # Of `sendto` the address comes last: flags may stand before it.
        host = given[-1][0] if isinstance(given[-1], tuple) else None
        if isinstance(host, str) and not host.startswith(_HERE):
            _refuse(f"{name} {given[-1]}")
        return original(self, *given)

    return reach


def _resolving(name: str) -> Any:
    original = getattr(socket, name)

    def resolve(host: Any, *rest: Any, **more: Any) -> Any:
        if isinstance(host, str) and host and not host.startswith(_HERE) and host != socket.gethostname():
            _refuse(f"{name} {host}")
        return original(host, *rest, **more)

    return resolve


def _refuse(what: str) -> None:
    if _LOG:
        with open(_LOG, "a") as stream:
            stream.write(f"{what}\n")
    raise OSError(f"the tests allow no connection: {what}")


if _LOG:
    for method in ("connect", "connect_ex", "sendto"):
        setattr(socket.socket, method, _guarded(method))
    for function in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        setattr(socket, function, _resolving(function))
