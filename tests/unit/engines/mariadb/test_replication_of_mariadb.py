"""Where a copy goes on."""

from __future__ import annotations

import pytest

from mainstay.engines.mariadb.binlog import position_of_copy
from mainstay.engines.mariadb.physical_copy import position_statements
from mainstay.model.errors import Permanent


@pytest.mark.parametrize(
    ("told", "recorded", "expected"),
    [
        ("0-1-7", "", "0-1-7"),  # a leader that never followed anybody
        ("0-1-7", "0-2-5", "0-1-7"),  # a leader that followed server 2 before
        ("0-1-7", "0-1-5", "0-1-7"),  # a leader that was copied from its own former standby
        ("0-1-7", "0-1-10", "0-1-10"),  # a follower that has not counted its last transactions yet
        ("0-1-7,3-22-900", "0-1-10,3-22-899,5-1-1", "0-1-10,3-22-900"),
    ],
)
def test_a_follower_that_counts_late_has_what_its_table_says(told: str, recorded: str, expected: str) -> None:
    assert position_of_copy(told, recorded) == expected


def test_what_is_no_position_becomes_no_sql() -> None:
    assert position_statements("") == []
    with pytest.raises(Permanent, match="no GTID"):
        position_statements("0-1-7); DROP TABLE x; --")
