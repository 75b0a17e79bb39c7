"""Which segments a replay needs, and that none of them can be missing without being named."""

from __future__ import annotations

import pytest

from mainstay.backups.log_archive import Segment, StoredSegment
from mainstay.engines.mysql_family.log_places import (
    SEGMENT_BYTES,
    Lineage,
    Part,
    Stretch,
    between,
    file_number,
    parse_place,
    parse_segment,
    timeline_name,
)
from mainstay.model.errors import Permanent

LOG = "mysql-bin-changelog"


def stored(*parts: Part) -> list[StoredSegment]:
    return [
        StoredSegment(Segment(timeline_name(part.timeline), part.index, part.name(LOG)), True, -1, 1) for part in parts
    ]


def parts(*found: tuple[int, int]) -> list[Part]:
    return [Part(1, file, part) for file, part in found]


def needed(start: str, end: str, there: list[Part], lineage: Lineage | None = None) -> list[tuple[str, int, int]]:
    lineage = lineage or Lineage(timeline=1, first_file=1)
    found = between(parse_place(start), parse_place(end), lineage, stored(*there), LOG)
    return [(one.name, one.end, one.below) for one in found]


def name(file: int, part: int, timeline: int = 1) -> str:
    return Part(timeline, file, part).name(LOG)


def test_names_and_numbers_go_both_ways_and_are_ordered() -> None:
    part = Part(2, 17, 3)
    assert part.name(LOG) == "00000002.mysql-bin-changelog.000017.000003"
    assert parse_segment(part.name(LOG)) == part
    ordered = [Part(1, 1, 0), Part(1, 1, 1), Part(1, 2, 0), Part(1, 999_999, 9), Part(2, 1, 0)]
    assert sorted(ordered, key=lambda one: one.index) == ordered
    assert Part(32_767, (1 << 28) - 1, (1 << 20) - 1).index < 1 << 63
    assert str(parse_place("2/17:4711")) == "2/17:4711" and file_number("mysql-bin-changelog.000017") == 17
    for wrong in ("17:4711", "1/17", "1/17:x", "0/16B3748"):
        with pytest.raises(Permanent):
            parse_place(wrong)
    with pytest.raises(Permanent):
        parse_segment("000000010000000000000001")


def test_a_backup_that_is_consistent_by_itself_needs_nothing() -> None:
    assert needed("1/3:500", "1/3:500", []) == []


def test_files_are_read_from_their_beginning_to_the_end_position() -> None:
    there = parts((3, 0), (4, 0), (4, 1), (5, 0))
    full = SEGMENT_BYTES
    assert needed("1/3:500", "1/5:700", there) == [
        (name(3, 0), 0, full), (name(4, 0), full, 0), (name(4, 1), 0, full), (name(5, 0), 700, 0),
    ]  # fmt: skip
    assert needed("1/3:500", f"1/4:{full + 9}", there)[-2:] == [(name(4, 0), full, 0), (name(4, 1), 9, 0)]
    assert needed("1/3:4", f"1/4:{2 * full}", there)[-1] == (name(4, 1), 0, 0), "of a whole one there is what there is"


@pytest.mark.parametrize("gone", [(3, 0), (4, 0), (4, 1), (5, 0), (5, 1), (6, 0)])
def test_whatever_is_missing_is_among_what_is_needed_or_shows_in_its_neighbour(gone: tuple[int, int]) -> None:
    whole = parts((3, 0), (4, 0), (4, 1), (5, 0), (5, 1), (6, 0))
    there = [one for one in whole if one != Part(1, *gone)]
    found = needed("1/3:4", "1/6:80", there)
    last_of_a_file = gone in ((4, 1), (5, 1))
    assert (name(*gone) in [one for one, *_ in found]) != last_of_a_file
    if last_of_a_file:  # the one before, which is full, may not be the last one
        assert (name(gone[0], 0), 0, SEGMENT_BYTES) in found


def test_histories_are_followed_over_failovers() -> None:
    lineage = Lineage(
        timeline=3,
        first_file=7,
        ancestors=(Stretch(1, 3, Part(1, 4, 0), "0-1-5"), Stretch(2, 1, Part(2, 1, 0), "0-2-9")),
    )
    there = [Part(1, 3, 0), Part(1, 4, 0), Part(1, 5, 0), Part(2, 1, 0), Part(3, 7, 0)]
    assert [one for one, *_ in needed("1/4:80", "3/7:90", there, lineage)] == [
        name(4, 0), name(1, 0, 2), name(7, 0, 3),
    ]  # fmt: skip
    assert [one for one, *_ in needed("2/1:80", "3/7:90", there, lineage)] == [name(1, 0, 2), name(7, 0, 3)]
    with pytest.raises(Permanent, match="does not come from"):
        needed("1/2:80", "3/7:90", there, lineage)
