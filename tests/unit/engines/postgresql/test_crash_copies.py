"""PostgreSQL's directory as after a power cut: what belongs to the copy, and how it becomes another instance's."""

from __future__ import annotations

import os
from pathlib import Path

from mainstay.engines.postgresql.crash_copies import PAGE_HEADER, PostgresqlCrashCopies
from mainstay.engines.postgresql.wal import SEGMENT_BYTES, segment_name
from mainstay.host.processes import User

OURSELVES = User("self")
LEFT_OUT = ("postmaster.pid", "postgresql.auto.conf", "standby.signal", "pg_replslot/mainstay_archive/state",
            "pg_stat_tmp/global.stat", "pg_subtrans/0000", "base/5/pgsql_tmp/pgsql_tmp1.0",
            "base/5/pg_internal.init")  # fmt: skip
COPIED = ("PG_VERSION", "global/pg_control", "base/5/1259", "pg_xact/0000", "pg_wal/00000002.history",
          "pg_wal/archive_status/000000010000000000000001.done", "pg_tblspc")  # fmt: skip


def segment(number: int, shown: int) -> bytes:
    """The first page of a segment, as that of segment `shown`."""
    return PAGE_HEADER.pack(0xD116, 2, 1, shown * SEGMENT_BYTES) + bytes(100)


def filled(data: Path) -> None:
    for name in (*LEFT_OUT, *COPIED):
        path = data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == "pg_tblspc":
            path.mkdir()
        else:
            path.write_text(name)
    for number, shown in ((7, 7), (8, 8), (9, 3), (10, 4)):
        (data / "pg_wal" / segment_name(1, number)).write_bytes(segment(number, shown))
    (data / "pg_wal" / segment_name(1, 11)).write_bytes(b"")


def test_the_copy_has_what_recovery_reads_and_no_log_of_another_time(tmp_path: Path) -> None:
    filled(tmp_path)
    found = {one.path for one in PostgresqlCrashCopies().files(tmp_path)}
    assert set(COPIED) <= found and not found & set(LEFT_OUT)
    assert {"pg_replslot", "pg_stat_tmp", "pg_subtrans"} <= found, "as directories"
    written = {segment_name(1, number) for number in (7, 8, 11)}
    assert {path.removeprefix("pg_wal/") for path in found if path.startswith("pg_wal/0000000100")} == written


def test_what_was_particular_to_the_other_instance_goes_and_no_link_is_followed(tmp_path: Path) -> None:
    data, outside = tmp_path / "data", tmp_path / "outside"
    filled(data)
    outside.mkdir()
    (outside / "precious").write_text("text")
    (data / "postgresql.auto.conf").unlink()
    (data / "postgresql.auto.conf").symlink_to(outside / "precious")
    (data / "pg_notify").symlink_to(outside)
    (data / "pg_stat_tmp" / "link").symlink_to(outside)
    for _ in range(2):  # a kill in the middle: it is done again
        PostgresqlCrashCopies().prepare(data, OURSELVES)
    assert (outside / "precious").read_text() == "text" and os.listdir(outside) == ["precious"]
    assert not (data / "postgresql.auto.conf").is_symlink() and (data / "postgresql.auto.conf").read_bytes() == b""
    assert not (data / "postmaster.pid").exists() and not (data / "standby.signal").exists()
    for name in ("pg_replslot", "pg_notify", "pg_stat_tmp", "pg_dynshmem"):
        assert (data / name).is_dir() and list((data / name).iterdir()) == []
    assert (data / "pg_wal" / segment_name(1, 8)).exists() and (data / "pg_xact" / "0000").exists()


def test_tablespaces_cannot_be_copied_so(tmp_path: Path) -> None:
    copies = PostgresqlCrashCopies()
    filled(tmp_path)
    assert copies.refusal(tmp_path) == ""
    (tmp_path / "pg_tblspc" / "16500").symlink_to("/srv/space")
    assert "tablespaces" in copies.refusal(tmp_path)
