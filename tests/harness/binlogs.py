"""Binary logs of the test's making, byte by byte as MariaDB writes them."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import msgspec

from mainstay.backups.log_archive import LogArchive, Segment
from mainstay.engines.mysql_family import binlog
from mainstay.engines.mysql_family.binlog import MAGIC, Gtid
from mainstay.engines.mysql_family.log_places import SEGMENT_BYTES, Lineage, Part, history_name, timeline_name

LOG = "mysql-bin-changelog"
BEGAN = 1_700_000_000
"""The second in which the logs begin."""


class Binlog:
    """One binary log. `server` writes it; every transaction inserts `text` at `second` (after BEGAN)."""

    def __init__(self, server: int, listed: Iterable[Gtid] = ()) -> None:
        self.server = server
        self.content = MAGIC
        self._event(binlog.FORMAT_DESCRIPTION, b"\x04\0" + b"11.8-MariaDB".ljust(50, b"\0"), flags=binlog.IN_USE)
        rows = b"".join(struct.pack("<IIQ", one.domain, one.server, one.sequence) for one in listed)
        self._event(binlog.GTID_LIST, struct.pack("<I", len(rows) // 16) + rows)

    def _event(self, kind: int, body: bytes, second: int = 0, *, flags: int = 0, server: int = 0) -> None:
        length = 19 + len(body)
        header = struct.pack(
            "<IBIIIH", BEGAN + second, kind, server or self.server, length, len(self.content) + length, flags
        )
        self.content += header + body

    def gtid(self, sequence: int, second: int, *, server: int = 0, standalone: bool = False) -> None:
        self._event(binlog.GTID, struct.pack("<QIB", sequence, 0, int(standalone)).ljust(19, b"\0"), second,
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

    def rotate(self) -> None:
        """The file ends."""
        self._event(binlog.ROTATE, b"\x04" + b"\0" * 7 + b"next")

    @property
    def end(self) -> int:
        return len(self.content)


def archive_log(archive: LogArchive, lineage: Lineage, files: dict[int, Binlog]) -> None:
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
