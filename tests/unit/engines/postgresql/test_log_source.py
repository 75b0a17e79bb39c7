"""What a log source finds to ship, from a directory of segments and the engine's answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from mainstay.engines.backups import LogLook, LogPlace
from mainstay.engines.node_files import NodeFiles
from mainstay.engines.postgresql.log_source import PostgresqlLogSource, _Flushed
from mainstay.engines.postgresql.wal import SEGMENT_BYTES, segment_name


class Spec:
    port = 1


@pytest.fixture
def files(tmp_path: Path) -> NodeFiles:
    made = NodeFiles(root=tmp_path, sockets=tmp_path)
    (made.data / "pg_wal").mkdir(parents=True)
    for number in range(6, 10):
        (made.data / "pg_wal" / segment_name(1, number)).touch()
    return made


def look(source: PostgresqlLogSource, after: LogPlace | None, kept: int, flushed: int) -> LogLook:
    return source._compare(after, kept, _Flushed(flushed, 1, 1.0))


def source_of(files: NodeFiles) -> PostgresqlLogSource:
    return PostgresqlLogSource(Spec(), files)  # type: ignore[arg-type]


def place(number: int, offset: int) -> LogPlace:
    return LogPlace(timeline="00000001", segment=segment_name(1, number), offset=offset)


def shipped(found: LogLook) -> list[tuple[int, int, int]]:
    return [(int(piece.segment, 16) & 0xFF, piece.start, piece.end) for piece in found.pieces]


def test_it_goes_on_where_it_was(files: NodeFiles) -> None:
    source, kept = source_of(files), 8 * SEGMENT_BYTES + 100
    assert shipped(look(source, place(8, 100), kept, kept + 50)) == [(8, 100, 150)]
    assert shipped(look(source, place(8, 150), kept, kept + 50)) == []


def test_after_a_kill_it_begins_where_the_engine_was_last_told_that_all_is_stored(files: NodeFiles) -> None:
    """A backup had stored segment 8 whole, and a backup only: what is before it had not been shipped to its end."""
    source, kept = source_of(files), 6 * SEGMENT_BYTES + 100
    after, flushed = place(8, SEGMENT_BYTES), 9 * SEGMENT_BYTES + 10
    found = look(source, after, kept, flushed)
    assert shipped(found) == [(6, 0, SEGMENT_BYTES), (7, 0, SEGMENT_BYTES), (9, 0, 10)] and found.missing == ""
    later = look(source, place(9, 10), kept, flushed + 10)
    assert shipped(later) == [(9, 10, 20)], "only once"


def test_what_only_an_old_slot_keeps_is_not_missed(files: NodeFiles) -> None:
    found = look(source_of(files), place(8, 100), 4 * SEGMENT_BYTES, 8 * SEGMENT_BYTES + 200)
    assert shipped(found)[-1] == (8, 100, 200) and found.missing == ""


def test_a_segment_that_is_needed_and_gone_is_missing(files: NodeFiles) -> None:
    found = look(source_of(files), place(4, 100), 8 * SEGMENT_BYTES, 8 * SEGMENT_BYTES + 200)
    assert found.missing == segment_name(1, 4) and not found.pieces
