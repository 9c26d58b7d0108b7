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

    def connect(self: socket.socket, address: Any) -> Any:
        host = address[0] if isinstance(address, tuple) else None
        if isinstance(host, str) and not host.startswith(_HERE):
            _refuse(f"{name} {address}")
        return original(self, address)

    return connect


def _resolve(host: Any, *rest: Any, **more: Any) -> Any:
    if isinstance(host, str) and host and not host.startswith(_HERE) and host != socket.gethostname():
        _refuse(f"getaddrinfo {host}")
    return _getaddrinfo(host, *rest, **more)


def _refuse(what: str) -> None:
    if _LOG:
        with open(_LOG, "a") as stream:
            stream.write(f"{what}\n")
    raise OSError(f"the tests allow no connection: {what}")


_getaddrinfo = socket.getaddrinfo
if _LOG:
    for method in ("connect", "connect_ex"):
        setattr(socket.socket, method, _guarded(method))
    socket.getaddrinfo = _resolve
