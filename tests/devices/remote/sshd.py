"""A real ssh server on loopback, with keys and a configuration of its own, and clients of it."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from devices.machine_place import PLACE_VARIABLE, USUAL_PLACE

SERVER = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
_SEPARATION = Path("/run/sshd")
_SERVER_CONFIG = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
PidFile {folder}/sshd.pid
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding yes
AcceptEnv ESPALIER_MEASURE_LOCK
"""
_CLIENT_CONFIG = """
SetEnv ESPALIER_MEASURE_LOCK={lock}
Host board jump far
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {folder}/key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
Host far
  ProxyCommand {ssh} -F {folder}/ssh_config -o BatchMode=yes -W %h:%p jump
Host wrong-key
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {folder}/other_key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
Host unknown
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {folder}/key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/nobody_known
  GlobalKnownHostsFile /dev/null
Host changed
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {folder}/key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_otherwise
  GlobalKnownHostsFile /dev/null
"""


@dataclass(frozen=True)
class Server:
    """A server that runs, and what its clients need."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def ssh_options(self) -> tuple[str, ...]:
        """For the hosts `board`, `far` (by way of `jump`), `wrong-key`, `unknown` and `changed`."""
        return ("-F", str(self.folder / "ssh_config"))

    def connections(self) -> list[int]:
        """Processes of the server that serve a connection each."""
        return _children(self.process.pid)

    def cut(self) -> None:
        """End every connection at once, as a cable does that is pulled, without a word to the client."""
        for pid in self.connections():
            # The part without privileges, below it, holds the connection.
            for child in (*_children(pid), pid):
                try:
                    name = Path(f"/proc/{child}/comm").read_text().strip()
                    if name.startswith("sshd"):
                        os.kill(child, signal.SIGKILL)
                except (OSError, ProcessLookupError):
                    continue


def start_server(folder: Path) -> Server:
    """Start it on a free port."""
    if os.geteuid() == 0:
        # The server insists on it.
        _SEPARATION.mkdir(mode=0o755, exist_ok=True)
    for name in ("host_key", "key", "other_key", "other_host_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
        subprocess.run(command, check=True, capture_output=True)
    shutil.copyfile(folder / "key.pub", folder / "authorized_keys")
    for port in _free_ports():
        process = _started(folder, port)
        if process is not None:
            return Server(folder, port, process)
    raise AssertionError((folder / "sshd.log").read_text())


def stop_server(server: Server) -> None:
    """End it and its connections."""
    server.cut()
    server.process.terminate()
    server.process.wait()


def _free_ports() -> Iterator[int]:
    """A few that are free now. Not of those that the system gives to whoever asks for any."""
    first = 20_000 + os.getpid() % 9000
    for port in range(first, first + 10):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port


def _started(folder: Path, port: int) -> subprocess.Popen[bytes] | None:
    """The server, listening there; None where it ended, as it does when another took the port before it."""
    assert SERVER is not None
    for name, key in (("known_hosts", "host_key"), ("known_otherwise", "other_host_key")):
        (folder / name).write_text(f"[127.0.0.1]:{port} {(folder / f'{key}.pub').read_text()}")
    values = {"folder": folder, "port": port, "user": getpass.getuser(), "ssh": shutil.which("ssh")}
    # A benchmark has the machine's usual one.
    values["lock"] = os.environ.get(PLACE_VARIABLE, USUAL_PLACE)
    (folder / "sshd_config").write_text(_SERVER_CONFIG.format(**values))
    (folder / "ssh_config").write_text(_CLIENT_CONFIG.format(**values))
    with open(folder / "sshd.log", "wb") as log:
        process = subprocess.Popen(
            [SERVER, "-D", "-e", "-f", str(folder / "sshd_config")], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        # It says so itself: whatever answers at the port may be another's.
        if b"Server listening on" in (folder / "sshd.log").read_bytes():
            return process
        time.sleep(0.05)
    process.kill()
    process.wait()
    return None


def _children(pid: int) -> list[int]:
    try:
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
