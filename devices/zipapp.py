"""The agent as one file: this package, its profiles and a TOML reader, the same bytes for the same sources."""

from __future__ import annotations

import importlib.util
import io
import zipfile
from pathlib import Path

from devices.errors import DeviceError
from devices.files import digest_bytes, write_atomic

# The check runs in any Python, and comes before what an old one cannot read.
_MAIN = b"""import sys
if sys.version_info < (3, 10):
    sys.exit("espalier-agent: Python %s is too old: 3.10 or later is needed" % sys.version.split()[0])
from devices.agent import main
sys.exit(main())
"""
# The first that a zip file can hold.
_DATE = (1980, 1, 1, 0, 0, 0)
_PACKAGE = "devices"
_SUFFIXES = (".py", ".toml")
_TOML_READERS = ("tomllib", "tomli")


def agent_zipapp() -> bytes:
    """`espalier-agent` for any Python from 3.10 on, made of the package that is running.

    The TOML reader is that of this Python's standard library, or `tomli`, from which that was taken: both are the same
    plain Python files. Raises `DeviceError` where the package has no files to read.
    """
    entries = {f"{_PACKAGE}/{name}": content for name, content in _sources(_PACKAGE).items()}
    entries |= {f"tomli/{name}": content for name, content in _toml_reader().items()}
    entries["__main__.py"] = _MAIN
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(entries):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, entries[name], compresslevel=9)
    return b"#!/usr/bin/env python3\n" + buffer.getvalue()


def write_agent(path: Path) -> str:
    """Write the agent, ready to be started; returns its SHA-256. Raises `DeviceError`, `StorageError`."""
    content = agent_zipapp()
    write_atomic(path, content)
    path.chmod(0o755)
    return digest_bytes(content)


def _toml_reader() -> dict[str, bytes]:
    for package in _TOML_READERS:
        if importlib.util.find_spec(package):
            return _sources(package)
    raise DeviceError("installation", "has no TOML reader to put into the agent", "Install it: pip install tomli")


def _sources(package: str) -> dict[str, bytes]:
    """Plain source files of an installed package, by their path in it. Compiled ones would be of this machine only."""
    spec = importlib.util.find_spec(package)
    places = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    found = {
        path.relative_to(place).as_posix(): path.read_bytes()
        for place in places
        if place.is_dir()
        for path in place.rglob("*")
        if path.suffix in _SUFFIXES and path.is_file()
    }
    if "__init__.py" not in found:
        raise DeviceError(f"package {package}", "has no source files here", "Install Espalier as usual: pip install .")
    return found
