"""Standbys whose host went down while they ran: they force nothing to the disk but what they have received.

After that, tablespaces and binary log are each as far as the kernel happened to have written them. MySQL takes what its
binary log names for done, so what only that had reached the disk would be missing for ever, and nobody would be told;
MariaDB would have holes in the log that replicas may follow later. Such data is copied anew. A process that is killed
leaves everything behind, in the host's memory, and a binary log that was closed tells of an orderly end.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from mainstay.engines.mysql_family.binlog import MAGIC
from mainstay.engines.mysql_family.layout import BINLOG
from mainstay.engines.mysql_family.lineages import as_owner
from mainstay.engines.node_files import NodeFiles
from mainstay.host.files import write_atomically

MARK = "mainstay.unforced"
"""Beside the volume: this data has been a running standby's. Beside the socket, in memory: since the host is up."""

BOOT = Path("/proc/sys/kernel/random/boot_id")
FLAGS_AT = len(MAGIC) + 17
IN_USE = 1
"""Flag of the first event of a binary log that was not closed (MySQL: LOG_EVENT_BINLOG_IN_USE_F)."""


def note_running(files: NodeFiles) -> None:
    """The standby is to be started, or runs. To be called before; durable when it returns. Nothing if it is torn."""
    if _runs_since_boot(files) or is_torn(files):
        return
    if not (files.root / MARK).exists():
        write_atomically(files.root / MARK, b"")
    with as_owner(files.sockets):
        write_atomically(files.sockets / MARK, BOOT.read_bytes())


def forget(files: NodeFiles) -> None:
    """All of the data is on the disk: it was copied anew, or takes over."""
    (files.root / MARK).unlink(missing_ok=True)
    with suppress(OSError), as_owner(files.sockets):
        (files.sockets / MARK).unlink(missing_ok=True)


def is_torn(files: NodeFiles) -> bool:
    """Whether the host went down while the standby, whose data this is, ran."""
    return (files.root / MARK).exists() and not _runs_since_boot(files) and _is_in_use(files.data)


def _runs_since_boot(files: NodeFiles) -> bool:
    try:
        with as_owner(files.sockets):
            return (files.sockets / MARK).read_bytes() == BOOT.read_bytes()
    except OSError:
        return False


def _is_in_use(data: Path) -> bool:
    """Whether the newest binary log was not closed. What cannot be read is not held for closed."""
    try:
        with as_owner(data):
            logs = sorted(data.glob(f"{BINLOG}.[0-9]*"))
            if not logs:
                return False
            with logs[-1].open("rb") as file:
                begin = file.read(FLAGS_AT + 2)
    except OSError:
        return True
    return len(begin) < FLAGS_AT + 2 or bool(begin[FLAGS_AT] & IN_USE)
