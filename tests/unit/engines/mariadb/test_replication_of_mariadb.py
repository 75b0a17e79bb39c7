"""Where a copy goes on."""

from __future__ import annotations

import pytest

from mainstay.engines.mariadb.physical_copy import position_rows
from mainstay.model.errors import Permanent


def test_positions_become_rows() -> None:
    assert position_rows("0-1-7,3-22-900") == ["(0, 1, 1, 7)", "(3, 2, 22, 900)"]
    assert position_rows("") == []
    with pytest.raises(Permanent, match="no GTID"):
        position_rows("0-1-7); DROP TABLE x; --")
