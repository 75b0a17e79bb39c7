"""Reading binary logs, event by event, without a server.

Source: MySQL internals manual, "Binary Log Event". Nothing but the frame of an event is looked into: how a transaction
is called, and where it ends, each engine says in its own way (`log_format.LogFormat`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

import msgspec

from mainstay.model.errors import Permanent

MAGIC = b"\xfebin"
EVENT_BYTES_MAX = 1 << 30
QUERY, STOP, ROTATE, FORMAT_DESCRIPTION, XID = 2, 3, 4, 15, 16
START_ENCRYPTION = 164
"""MariaDB's. MySQL's encrypted logs do not begin with MAGIC."""

IN_USE = 0x1
_HEADER = struct.Struct("<IBIIIH")
HEADER_BYTES = _HEADER.size


class Event(msgspec.Struct, frozen=True):
    """One event as it stands in its file, `offset` bytes into it. `timestamp` is in epoch seconds."""

    timestamp: int
    kind: int
    server: int
    offset: int
    data: bytes

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.offset + len(self.data)

    @property
    def closed(self) -> bytes:
        """The event without the mark that its file is being written."""
        flags_at = HEADER_BYTES - 2
        flags = int.from_bytes(self.data[flags_at:HEADER_BYTES], "little") & ~IN_USE
        return self.data[:flags_at] + flags.to_bytes(2, "little") + self.data[HEADER_BYTES:]


def events(parts: Iterable[bytes]) -> Iterator[Event]:
    """The whole events of one file, which comes in parts. What is cut off at its end is left out.

    Raises `Permanent` for what is no binary log, and for an encrypted one.
    """
    buffer, at, offset, begun = b"", 0, 0, False
    for part in parts:
        buffer, at = buffer[at:] + part, 0
        if not begun and len(buffer) >= len(MAGIC):
            if not buffer.startswith(MAGIC):
                raise Permanent("that is no binary log: it does not begin like one")
            begun, at, offset = True, len(MAGIC), len(MAGIC)
        while begun and len(buffer) - at >= HEADER_BYTES:
            timestamp, kind, server, length, _next, _flags = _HEADER.unpack_from(buffer, at)
            if not HEADER_BYTES <= length <= EVENT_BYTES_MAX:
                raise Permanent(f"the binary log is damaged at byte {offset}: an event of {length} bytes")
            if len(buffer) - at < length:
                break
            if kind == START_ENCRYPTION:
                raise Permanent("the binary log is encrypted by the engine, and cannot be read")
            yield Event(timestamp, kind, server, offset, buffer[at : at + length])
            at, offset = at + length, offset + length
