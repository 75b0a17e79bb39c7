"""Listening sockets, and why one could not be had: who else holds the port."""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from mainstay.endpoint.limits import ACCEPT_BACKLOG
from mainstay.model.errors import Permanent, Transient

Transport = Literal["tcp", "udp"]

_BOUND_STATES = {"tcp": "0A", "udp": "07"}  # st in /proc/net/tcp and udp: TCP_LISTEN, and TCP_CLOSE for unconnected


def listen(address: str, port: int) -> socket.socket:
    """A non-blocking listening socket.

    Raises `Permanent` when the port is taken, forbidden or the address is not ours; `Transient` when the kernel has
    no room just now.
    """
    listener = socket.socket(family_of(address), socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(ACCEPT_BACKLOG)
    except OSError as error:
        listener.close()
        raise explained(error, address, port) from error
    return listener


def family_of(address: str) -> socket.AddressFamily:
    """The kind of socket that an address needs."""
    return socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET


def explained(error: OSError, address: str, port: int, transport: Transport = "tcp") -> Permanent | Transient:
    """What stands in the way of a socket, and who."""
    message = f"cannot listen on {address}:{port} ({transport.upper()}): {error.strerror}"
    if error.errno == errno.EADDRINUSE:
        holder = holder_of(port, address, transport)
        who = f"{holder} listens there" if holder else "another process listens there"
        return Permanent(message, hint=f"{who}. Stop it, let it listen on 127.0.0.1 only, or choose another port.")
    if error.errno == errno.EACCES:
        return Permanent(message, hint="Ports below 1024 need root; choose a higher port or run the service as root.")
    if error.errno == errno.EADDRNOTAVAIL:
        return Permanent(message, hint="This host does not have that address.")
    return Transient(message)


def holder_of(port: int, address: str, transport: Transport = "tcp") -> str | None:
    """Name and id of the process that listens on this port of this address or of all addresses, if /proc tells."""
    for inode in _listening_inodes(port, address, transport):
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # processes end while we look, and those of others are closed to us
                if any(str(link.readlink()) == f"socket:[{inode}]" for link in (process / "fd").iterdir()):
                    return f"{(process / 'comm').read_text().strip()} (process {process.name})"
    return None


def _listening_inodes(port: int, address: str, transport: Transport) -> list[str]:
    ours = ip_address(address).packed
    inodes = []
    for table in (transport, f"{transport}6"):
        with suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                host, _, listening_port = fields[1].partition(":")
                if fields[3] != _BOUND_STATES[transport] or int(listening_port, 16) != port:
                    continue
                # Each 32-bit group is in the byte order of the machine; all machines we run on are little-endian.
                packed = b"".join(bytes.fromhex(host[at : at + 8])[::-1] for at in range(0, len(host), 8))
                if not any(packed) or packed == ours:
                    inodes.append(fields[9])
    return inodes
