"""MariaDB's directory as after a power cut: what belongs to the copy, and how it becomes another instance's."""

from __future__ import annotations

from pathlib import Path

from mainstay.engines.mariadb.crash_copies import INDEX, MariadbCrashCopies
from mainstay.engines.mysql_family.layout import BINLOG
from mainstay.engines.mysql_family.lineages import LEADS_FROM, LINEAGE
from mainstay.host.processes import User

LOGS = (f"{BINLOG}.000007", f"{BINLOG}.000008")


def filled(data: Path) -> None:
    data.mkdir()
    for name in (*LOGS, f"{BINLOG}.000008.idx", "ibdata1", "ibtmp1", "mysqld.pid", LINEAGE, LEADS_FROM):
        (data / name).write_text(name)
    (data / INDEX).write_text("".join(f"/where/it/was/{name}\n" for name in LOGS))


def test_the_copy_and_the_clone_both_name_their_own_logs(tmp_path: Path) -> None:
    data, copies = tmp_path / "data", MariadbCrashCopies()
    filled(data)
    found = {one.path: one for one in copies.files(data)}
    assert set(found) == {*LOGS, f"{BINLOG}.000008.idx", "ibdata1", INDEX}
    for _ in range(2):  # a kill in the middle: it is done again
        copies.prepare(data, User("self"))
    assert {path.name for path in data.iterdir()} == set(found)
    named = "".join(f"./{name}\n" for name in LOGS)
    assert (data / INDEX).read_text() == named and found[INDEX].content == named.encode()
