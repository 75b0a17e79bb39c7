"""Listening sockets, and why one could not be had: who else holds the port."""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from mainstay.endpoint.limits import ACCEPT_BACKLOG
from mainstay.model.errors import Permanent, Transient

_LISTEN_STATE = "0A"  # TCP_LISTEN in /proc/net/tcp


def listen(address: str, port: int) -> socket.socket:
    """A non-blocking listening socket.

    Raises `Permanent` when the port is taken, forbidden or the address is not ours; `Transient` when the kernel has
    no room just now.
    """
    family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(ACCEPT_BACKLOG)
    except OSError as error:
        listener.close()
        raise _explained(error, address, port) from error
    return listener


def _explained(error: OSError, address: str, port: int) -> Permanent | Transient:
    message = f"cannot listen on {address}:{port}: {error.strerror}"
    if error.errno == errno.EADDRINUSE:
        holder = holder_of(port, address)
        who = f"{holder} listens there" if holder else "another process listens there"
        return Permanent(
            message, hint=f"{who}. Stop it, let it listen on 127.0.0.1 only, or choose another port for the instance."
        )
    if error.errno == errno.EACCES:
        return Permanent(message, hint="Ports below 1024 need root; choose a higher port or run the service as root.")
    if error.errno == errno.EADDRNOTAVAIL:
        return Permanent(message, hint="This host does not have that address.")
    return Transient(message)


def holder_of(port: int, address: str) -> str | None:
    """Name and id of the process that listens on this port of this address or of all addresses, if /proc tells."""
    for inode in _listening_inodes(port, address):
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # processes end while we look, and those of others are closed to us
                if any(str(link.readlink()) == f"socket:[{inode}]" for link in (process / "fd").iterdir()):
                    return f"{(process / 'comm').read_text().strip()} (process {process.name})"
    return None


def _listening_inodes(port: int, address: str) -> list[str]:
    ours = ip_address(address).packed
    inodes = []
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                host, _, listening_port = fields[1].partition(":")
                if fields[3] != _LISTEN_STATE or int(listening_port, 16) != port:
                    continue
                # Each 32-bit group is in the byte order of the machine; all machines we run on are little-endian.
                packed = b"".join(bytes.fromhex(host[at : at + 8])[::-1] for at in range(0, len(host), 8))
                if not any(packed) or packed == ours:
                    inodes.append(fields[9])
    return inodes
