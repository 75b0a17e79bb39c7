"""What is read from a follower, and what is written for one."""

from __future__ import annotations

from typing import Any

import pytest

from mainstay.engines.mariadb.physical_copy import position_rows
from mainstay.engines.mariadb.replication import follow, judge, loss
from mainstay.model.errors import Permanent

FOLLOWING: dict[str, Any] = {
    "Slave_IO_Running": "Yes", "Slave_SQL_Running": "Yes", "Last_SQL_Errno": 0, "Last_SQL_Error": "",
    "Last_IO_Error": "", "Gtid_IO_Pos": "0-1-7", "Seconds_Behind_Master": 3,
}  # fmt: skip


def test_a_follower_that_has_applied_everything_has_no_lag() -> None:
    seen = judge(FOLLOWING, "0-1-7")
    assert (seen.streaming, seen.lag_s, seen.lag_bytes) == (True, 0.0, 0)


def test_one_that_has_not_is_as_late_as_its_engine_says() -> None:
    seen = judge(FOLLOWING, "0-1-6")
    assert (seen.streaming, seen.lag_s, seen.lag_bytes) == (True, 3.0, None)


def test_one_that_is_not_connected_is_not_called_up_to_date() -> None:
    away = FOLLOWING | {"Slave_IO_Running": "Connecting", "Seconds_Behind_Master": None}
    assert judge(away, "0-1-7").connecting
    refused = judge(away | {"Last_IO_Error": "access denied"}, "0-1-7")
    assert not refused.streaming and not refused.connecting and refused.lag_s is None
    assert refused.message == "access denied"
    assert not judge({}, "").streaming


def test_one_that_cannot_apply_is_not_streaming_whatever_it_receives() -> None:
    broken = FOLLOWING | {"Slave_SQL_Running": "No", "Last_SQL_Errno": 1062, "Last_SQL_Error": "Duplicate entry"}
    assert not judge(broken, "0-1-7").streaming
    assert judge(FOLLOWING | {"Slave_SQL_Running": "No"}, "0-1-7").paused


@pytest.mark.parametrize(
    "line",
    [
        "[ERROR] Slave SQL: An attempt was made to binlog GTID 0-1-19 that makes an out-of-order sequence number",
        "[ERROR] Slave I/O: Got fatal error 1236 from master when reading data from binary log",
        "[ERROR] Slave SQL: Error 'Duplicate entry '1' for key 'PRIMARY'' on query",
    ],
)
def test_loss_is_told_by_the_log(line: str) -> None:
    assert loss(f"[Note] before\n{line}\n[Note] after")
    assert loss("[Note] Slave I/O thread: connected\n[Warning] Aborted connection") == ""


def test_positions_become_rows() -> None:
    assert position_rows("0-1-7,3-22-900") == ["(0, 1, 1, 7)", "(3, 2, 22, 900)"]
    assert position_rows("") == []
    with pytest.raises(Permanent, match="no GTID"):
        position_rows("0-1-7); DROP TABLE x; --")


class Engine:
    """Answers SHOW SLAVE STATUS, and remembers the rest."""

    def __init__(self, status: list[dict[str, Any]]) -> None:
        self._status = status
        self.ran: list[str] = []

    async def records(self, _statement: str) -> list[dict[str, Any]]:
        return self._status

    async def execute(self, statement: str) -> list[Any]:
        self.ran.append(statement)
        return []


STATEMENTS = (
    "STOP SLAVE;\nCHANGE MASTER TO MASTER_HOST='127.96.0.1', MASTER_PORT=3306, MASTER_USER='x';\nSTART SLAVE;\n"
)


async def test_a_follower_of_the_right_source_is_not_made_to_forget_what_it_received() -> None:
    right = Engine([{"Master_Host": "127.96.0.1", "Master_Port": 3306}])
    await follow(right, STATEMENTS)  # type: ignore[arg-type]
    assert right.ran == []


@pytest.mark.parametrize(
    "status",
    [[], [{"Master_Host": "127.96.0.11", "Master_Port": 3306}], [{"Master_Host": "127.96.0.1", "Master_Port": 330}]],
)
async def test_a_follower_of_another_one_changes_over(status: list[dict[str, Any]]) -> None:
    wrong = Engine(status)
    await follow(wrong, STATEMENTS)  # type: ignore[arg-type]
    assert [one.split()[0] for one in wrong.ran] == ["STOP", "CHANGE", "START"]
    assert not any(one.endswith(";") for one in wrong.ran)
