"""Binary logs of the test's making, byte by byte as MariaDB and MySQL write them."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterable, Mapping

import msgspec

from mainstay.backups.log_archive import LogArchive, Segment
from mainstay.engines.mariadb.binlog import GTID, GTID_LIST, Gtid
from mainstay.engines.mysql import binlog as mysql
from mainstay.engines.mysql_family import binlog
from mainstay.engines.mysql_family.binlog import MAGIC
from mainstay.engines.mysql_family.log_places import SEGMENT_BYTES, Lineage, Part, history_name, timeline_name

LOG = "mysql-bin-changelog"
BEGAN = 1_700_000_000
"""The second in which the logs begin."""


class _Events:
    """Events of one file; those written without a `server` are `self.server`'s."""

    server: int
    content: bytes

    def _event(self, kind: int, body: bytes, second: int = 0, *, flags: int = 0, server: int = 0) -> None:
        length = 19 + len(body)
        header = struct.pack(
            "<IBIIIH", BEGAN + second, kind, server or self.server, length, len(self.content) + length, flags
        )
        self.content += header + body

    def rotate(self) -> None:
        """The file ends."""
        self._event(binlog.ROTATE, b"\x04" + b"\0" * 7 + b"next")

    @property
    def end(self) -> int:
        return len(self.content)


class Binlog(_Events):
    """One binary log of MariaDB. `server` writes it; every transaction inserts `text` at `second` (after BEGAN)."""

    def __init__(self, server: int, listed: Iterable[Gtid] = ()) -> None:
        self.server = server
        self.content = MAGIC
        self._event(binlog.FORMAT_DESCRIPTION, b"\x04\0" + b"11.8-MariaDB".ljust(50, b"\0"), flags=binlog.IN_USE)
        rows = b"".join(struct.pack("<IIQ", one.domain, one.server, one.sequence) for one in listed)
        self._event(GTID_LIST, struct.pack("<I", len(rows) // 16) + rows)

    def gtid(self, sequence: int, second: int, *, server: int = 0, standalone: bool = False) -> None:
        self._event(GTID, struct.pack("<QIB", sequence, 0, int(standalone)).ljust(19, b"\0"), second,
                    server=server)  # fmt: skip

    def write(self, sequence: int, second: int, text: str = "x", *, server: int = 0) -> None:
        """One transaction."""
        self.gtid(sequence, second, server=server)
        self._event(binlog.QUERY, text.encode(), second, server=server)
        self._event(binlog.XID, b"\0" * 8, second, server=server)

    def ddl(self, sequence: int, second: int, text: str) -> None:
        """One statement that is a transaction by itself."""
        self.gtid(sequence, second, standalone=True)
        self._event(binlog.QUERY, text.encode(), second)

    def mark(self, sequence: int, second: float) -> None:
        """A mark, written at this moment."""
        microseconds = round((BEGAN + second) * 1e6)
        self.write(sequence, int(second), f"REPLACE INTO mysql.rds_heartbeat2 VALUES (3, {microseconds})")


class MysqlBinlog(_Events):
    """One binary log of MySQL, written by the server `uuid_of(server)`, with what comes before it."""

    def __init__(self, server: int, before: str = "") -> None:
        self.server = server
        self.content = MAGIC
        self._event(binlog.FORMAT_DESCRIPTION, b"\x04\0" + b"9.7.4".ljust(50, b"\0"), flags=binlog.IN_USE)
        of_server: dict[str, list[tuple[int, int]]] = {}
        for name, first, last in mysql.parse_set(before).intervals():
            of_server.setdefault(name, []).append((first, last + 1))
        body = struct.pack("<Q", len(of_server))
        for name, intervals in of_server.items():
            body += uuid.UUID(name).bytes + struct.pack("<Q", len(intervals))
            body += b"".join(struct.pack("<QQ", *one) for one in intervals)
        self._event(mysql.PREVIOUS_GTIDS, body)

    def write(
        self, number: int, moment: float, text: str = "x", *, server: int = 0, received: float | None = None
    ) -> None:
        """One transaction, committed by `server` at this moment (after BEGAN), `received` here later."""
        of = server or self.server
        at = len(self.content)
        moments = _moment(moment) if received is None else _moment(received, 1 << 55) + _moment(moment)
        text_bytes = text.encode()
        length = 19 + 42 + len(moments) + 3 + 19 + len(text_bytes) + 19 + 8
        head = struct.pack("<B16sQBQQ", 1, uuid.UUID(uuid_of(of)).bytes, number, 2, number - 1, number)
        self._event(mysql.GTID, head + moments + b"\xfc" + struct.pack("<H", length), int(moment), server=of)
        self._event(binlog.QUERY, text_bytes, int(moment), server=of)
        self._event(binlog.XID, b"\0" * 8, int(moment), server=of)
        assert len(self.content) - at == length


def uuid_of(server: int) -> str:
    """Of a MySQL server."""
    return str(uuid.UUID(int=server))


def _moment(moment: float, flag: int = 0) -> bytes:
    return (round((BEGAN + moment) * 1e6) | flag).to_bytes(7, "little")


def archive_log(archive: LogArchive, lineage: Lineage, files: Mapping[int, Binlog | MysqlBinlog]) -> None:
    """Stores these binary logs, whole but for the last one."""
    timeline = timeline_name(lineage.timeline)
    archive.put_small(history_name(timeline), msgspec.json.encode(lineage))
    for number, log in files.items():
        parts = range(len(log.content) // SEGMENT_BYTES + 1)
        for part in parts:
            here = Part(lineage.timeline, number, part)
            segment = Segment(timeline, here.index, here.name(LOG))
            data = log.content[part * SEGMENT_BYTES : (part + 1) * SEGMENT_BYTES]
            if number == max(files) and part == parts[-1]:
                archive.append_piece(segment, 0, data)
            else:
                archive.complete(segment, data)
