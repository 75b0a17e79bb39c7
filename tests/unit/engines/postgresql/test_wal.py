"""Names and places in the write-ahead log: PostgreSQL's own arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.engines.postgresql.wal import (
    SEGMENT_BYTES,
    format_lsn,
    parse_history,
    parse_lsn,
    parse_segment,
    segment_name,
    timeline_of,
)


def test_positions_and_names_as_the_engine_writes_them() -> None:
    assert parse_lsn("16/B374D848") == 0x16B374D848 and format_lsn(0x16B374D848) == "16/B374D848"
    # SELECT pg_walfile_name('16/B374D848') on timeline 1
    assert segment_name(1, parse_lsn("16/B374D848") // SEGMENT_BYTES) == "0000000100000016000000B3"


@given(st.integers(1, 0xFFFFFFFF), st.integers(0, (1 << 40) - 1))
def test_a_segments_name_tells_its_timeline_and_number(timeline: int, number: int) -> None:
    assert parse_segment(segment_name(timeline, number)) == (timeline, number)


@given(st.integers(0, (1 << 64) - 1))
def test_a_position_survives_being_written_down(position: int) -> None:
    assert parse_lsn(format_lsn(position)) == position


@pytest.mark.parametrize(
    "name", ["", "00000002.history", "0000000100000016000000b3", "0000000100000016000000B3.partial"]
)
def test_other_files_are_no_segments(name: str) -> None:
    with pytest.raises(ValueError, match="not the name"):
        parse_segment(name)


def test_each_segment_is_read_from_the_youngest_timeline_that_begins_in_it_or_before() -> None:
    ancestors = parse_history("1\t0/3000028\tno recovery target specified\n\n# a comment\n2\t0/5000000\tbecause\n")
    assert [(one.timeline, one.ends_at) for one in ancestors] == [(1, 0x3000028), (2, 0x5000000)]
    assert [timeline_of(number, 3, ancestors) for number in range(1, 7)] == [1, 1, 2, 2, 3, 3]
