"""Records with sockets (SCM_RIGHTS, unix(7)) over a connected SOCK_SEQPACKET socket, which keeps them apart.

Standard library only and little of it: processes that are to be small have this without an event loop. With one there
is `channel.py`.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence
from typing import NamedTuple

_DESCRIPTOR_BYTES = array.array("i").itemsize


class Record(NamedTuple):
    """What one `receive` gave. `data` is empty when the peer has ended the connection. Whoever receives it owns the
    sockets; they may be fewer than were sent, if this process had no descriptors left for them.
    """

    data: bytes
    carried: list[socket.socket]


def transmit(connection: socket.socket, data: bytes, descriptors: Sequence[int] = ()) -> bool:
    """False if the peer must take what it was sent before. The descriptors stay ours as well.

    Raises `OSError` if the connection is broken, or the record is longer than it can hold.
    """
    try:
        if descriptors:
            socket.send_fds(connection, [data], descriptors)
        else:
            connection.send(data)
    except BlockingIOError:
        return False
    return True


def receive(connection: socket.socket, bytes_max: int, carried_max: int) -> Record:
    """The next record. No program that is started meanwhile inherits its sockets: it would keep them open.

    Raises `BlockingIOError` when there is none yet, `OSError` when the connection is broken or the record is longer
    than `bytes_max`, or carries more than `carried_max`.
    """
    # Not socket.recv_fds: it drops its flags (CPython 3.11), and descriptors would be inherited.
    room = socket.CMSG_LEN(carried_max * _DESCRIPTOR_BYTES)
    data, ancillary, flags, _ = connection.recvmsg(bytes_max, room, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) - len(content) % _DESCRIPTOR_BYTES])
    if flags & socket.MSG_TRUNC:
        for descriptor in descriptors:
            os.close(descriptor)
        raise OSError(f"a record of more than {bytes_max} bytes")
    return Record(data, [socket.socket(fileno=descriptor) for descriptor in descriptors])
