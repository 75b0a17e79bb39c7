"""What is read from a follower, and what is done with one, in the words of both engines."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from mainstay.engines.mariadb.followers import FOLLOWERS as MARIADB
from mainstay.engines.mysql.followers import FOLLOWERS as MYSQL
from mainstay.engines.mysql_family import followers as followers_module
from mainstay.engines.mysql_family.followers import DISCARDED_FILE, Followers, FollowerStatus, judge
from mainstay.engines.mysql_family.trees import fsync_relay_logs, has_more
from mainstay.engines.node_files import NodeFiles
from mainstay.model.errors import CannotLead, Transient

FOLLOWING = FollowerStatus(
    source_host="127.96.0.1", source_port=3306, receiving="Yes", applying=True, receive_errno=0, receive_error="",
    apply_errno=0, apply_error="", received="0-1-7", behind_s=3.0,
)  # fmt: skip


def changed(**changes: Any) -> FollowerStatus:
    return msgspec.structs.replace(FOLLOWING, **changes)


def test_a_follower_that_has_applied_everything_has_no_lag() -> None:
    seen = judge(FOLLOWING, True)
    assert (seen.streaming, seen.lag_s, seen.lag_bytes) == (True, 0.0, 0)


def test_one_that_has_not_is_as_late_as_its_engine_says() -> None:
    seen = judge(FOLLOWING, False)
    assert (seen.streaming, seen.lag_s, seen.lag_bytes) == (True, 3.0, None)


def test_one_that_is_not_connected_is_not_called_up_to_date() -> None:
    assert judge(changed(receiving="Connecting", behind_s=None), True).connecting
    refused = judge(changed(receiving="Connecting", behind_s=None, receive_error="access denied"), True)
    assert not refused.streaming and not refused.connecting and refused.lag_s is None
    assert refused.message == "access denied"
    assert not judge(None, False).streaming


def test_one_that_cannot_apply_is_not_streaming_whatever_it_receives() -> None:
    assert not judge(changed(applying=False, apply_errno=1062, apply_error="Duplicate entry"), True).streaming
    assert judge(changed(applying=False), True).paused


class Engine:
    """Answers the question for the follower's status, and remembers the rest."""

    def __init__(self, source: str, follower: str, **status: Any) -> None:
        self._status = [] if not status else [
            {
                f"{source}_Host": "127.96.0.1", f"{source}_Port": 3306, f"{follower}_IO_Running": "Yes",
                f"{follower}_SQL_Running": "Yes", "Last_IO_Errno": 0, "Last_IO_Error": "", "Last_SQL_Errno": 0,
                "Last_SQL_Error": "", "Gtid_IO_Pos": "0-1-7", "Retrieved_Gtid_Set": "a:1-3,\nb:1",
                f"Seconds_Behind_{source}": None, **status,
            }
        ]  # fmt: skip
        self._shows = f"SHOW {follower.upper()} STATUS"
        self.ran: list[str] = []
        self.asked: list[tuple[Any, ...]] = []
        self.answer = 1

    async def records(self, statement: str) -> list[dict[str, Any]]:
        assert statement == self._shows
        return self._status

    async def execute(self, statement: str) -> list[Any]:
        self.ran.append(statement)
        return []

    async def value(self, _statement: str, arguments: tuple[Any, ...] = ()) -> int:
        self.asked.append(arguments)
        return self.answer


BOTH = pytest.mark.parametrize(
    ("followers", "source", "follower"), [(MARIADB, "Master", "Slave"), (MYSQL, "Source", "Replica")]
)


def statements(source: str, follower: str) -> str:
    host, port = f"{source.upper()}_HOST='127.96.0.1'", f"{source.upper()}_PORT=3306"
    return f"STOP {follower.upper()};\nCHANGE TO {host}, {port}, USER='x';\nSTART {follower.upper()};\n"


@BOTH
async def test_a_follower_of_the_right_source_is_not_made_to_forget_what_it_received(
    followers: Followers, source: str, follower: str, files: Any
) -> None:
    right: Any = Engine(source, follower, Auto_Position=1)
    await followers.follow(right, files, statements(source, follower))
    assert right.ran == []


@BOTH
@pytest.mark.parametrize("other", [{}, {"Host": "127.96.0.11"}, {"Port": 330}])
async def test_a_follower_of_another_one_changes_over(
    followers: Followers, source: str, follower: str, files: Any, other: dict[str, Any]
) -> None:
    """Not without what it has received in whole, and without half a transaction behind that."""
    (files.data / "relaylog.000002").write_bytes(bytes(100))
    place = {"Relay_Log_File": "relaylog.000002", "Relay_Log_Pos": 90, f"{follower}_SQL_Running": "No"}
    there = {f"{source}_{name}": value for name, value in other.items()}
    wrong: Any = Engine(source, follower, **(place | there if other else {}))
    await followers.follow(wrong, files, statements(source, follower))
    first = [f"STOP {follower.upper()} IO_THREAD", "KILL 1"] if other and followers is MYSQL else []
    assert wrong.ran[:-3] == first
    assert [one.split()[0] for one in wrong.ran][-3:] == ["STOP", "CHANGE", "START"]
    assert not any(one.endswith(";") for one in wrong.ran)


@pytest.mark.parametrize("followers", [MARIADB, MYSQL])
@pytest.mark.parametrize("forces", [10_000, 0, 1])
async def test_a_standby_is_in_sync_when_all_it_has_received_is_on_the_disk(
    followers: Followers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forces: int
) -> None:
    seen: list[object] = []

    class Standby:
        async def value(self, statement: str) -> int:
            seen.append(statement)
            return forces

    @asynccontextmanager
    async def session(sockets: Path, **_: Any) -> AsyncIterator[Standby]:
        assert sockets == tmp_path / "run" / "node-2"
        yield Standby()

    async def keeps_up(_followers: Followers, _standby: Path) -> bool:
        seen.append("keeps up?")
        return False

    monkeypatch.setattr(followers_module, "session", session)
    monkeypatch.setattr(followers_module, "fsync_relay_logs", seen.append)
    monkeypatch.setattr(Followers, "_keeps_up", keeps_up)
    files = NodeFiles(root=tmp_path / "nodes" / "node-1", sockets=tmp_path / "run" / "node-1")
    assert not await followers.confirm_synchronous(files, "node-2")
    received = tmp_path / "nodes" / "node-2" / "volume" / "data"
    then = [received, "keeps up?"] if forces == 1 else []
    assert seen == ["SELECT @@GLOBAL.sync_relay_log", *then]


def test_what_a_follower_has_received_is_forced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: forced.append(Path(f"/proc/self/fd/{fd}").readlink().name))
    for name in ("relaylog.000007", "relaylog.000008", "relaylog.index", "ibdata1"):
        (tmp_path / name).touch()
    fsync_relay_logs(tmp_path)
    assert forced == ["relaylog.000007", "relaylog.000008", "relaylog.index", tmp_path.name]


@pytest.fixture
def files(tmp_path: Path) -> Any:
    return SimpleNamespace(data=tmp_path, sockets=tmp_path / "node-1")


def discards(files: Any) -> bool:
    """Whether it is noted that what was received may be gone."""
    return (files.data / DISCARDED_FILE).exists()


@BOTH
async def test_what_cannot_be_applied_is_not_received_either(
    followers: Followers, source: str, follower: str, files: Any
) -> None:
    word = follower.upper()
    broken = {"Last_SQL_Errno": 1062, "Last_SQL_Error": "Duplicate entry", f"{follower}_SQL_Running": "No"}
    failing: Any = Engine(source, follower, **broken)
    assert await followers.hold_back(failing, files, await followers.status(failing)) == "Duplicate entry"
    # While it still receives nothing is discarded by a start.
    assert failing.ran == [f"START {word} SQL_THREAD", f"STOP {word} IO_THREAD"] and not discards(files)
    again: Any = Engine(source, follower, **broken, **{f"{follower}_IO_Running": "No"})
    assert await followers.hold_back(again, files, await followers.status(again)) == "Duplicate entry"
    assert again.ran == [f"START {word} SQL_THREAD"] and discards(files) is (followers is MARIADB)
    mended: Any = Engine(source, follower, **{f"{follower}_IO_Running": "No"})
    assert await followers.hold_back(mended, files, await followers.status(mended)) == ""
    assert mended.ran == [f"START {word} IO_THREAD"] and discards(files) is (followers is MARIADB)
    streaming: Any = Engine(source, follower, Seconds_Behind_x=1)
    assert await followers.hold_back(streaming, files, await followers.status(streaming)) == ""
    assert streaming.ran == [] and not discards(files)


@BOTH
@pytest.mark.parametrize(("applying", "refused"), [("Yes", Transient), ("No", CannotLead)])
async def test_only_an_applier_that_has_stopped_keeps_one_from_leading(
    followers: Followers, source: str, follower: str, files: Any, applying: str, refused: type[Transient]
) -> None:
    """An error that it tries again itself, as a deadlock between its workers, is no reason to end its process."""
    error = {"Last_SQL_Errno": 1213, "Last_SQL_Error": "Deadlock", f"{follower}_SQL_Running": applying}
    busy: Any = Engine(source, follower, **error)
    busy.answer = 0  # not everything is applied
    with pytest.raises(Transient) as caught:
        await followers._drain(busy, files)
    assert type(caught.value) is refused
    stop = f"STOP {follower.upper()} IO_THREAD"
    assert busy.ran == ([stop] if applying == "Yes" else [f"START {follower.upper()} SQL_THREAD", stop])


@BOTH
@pytest.mark.parametrize("position", [90, 100])
async def test_half_a_transaction_is_not_waited_for(
    followers: Followers, source: str, follower: str, files: Any, position: int
) -> None:
    """MySQL gives the rest of it a minute to come; the thread is ended only if there is anything behind what it did."""
    (files.data / "relaylog.000002").write_bytes(bytes(100))
    place = {"Relay_Log_File": "/elsewhere/relaylog.000002", "Relay_Log_Pos": position}
    left: Any = Engine(source, follower, **place, **{f"{follower}_SQL_Running": "No"})
    left.answer = 7
    await followers._drop_half(left, files)
    assert left.ran == (["KILL 7"] if followers is MYSQL and position == 90 else [])


def test_what_lies_behind_a_place_in_a_relay_log_is_seen(tmp_path: Path) -> None:
    (tmp_path / "relaylog.000009").write_bytes(bytes(100))
    (tmp_path / "relaylog.index").touch()
    assert [has_more(tmp_path, "./relaylog.000009", place) for place in (99, 100)] == [True, False]
    assert has_more(tmp_path, "relaylog.000008", 100)  # removed meanwhile
    (tmp_path / "relaylog.000010").touch()
    assert has_more(tmp_path, "relaylog.000009", 100)


@pytest.mark.parametrize(
    ("error", "in_memory", "passed"),
    [
        ("Could not execute Update_rows event on table shop.fleeting; Can't find record in 'fleeting'", 1, True),
        ("Could not execute Update_rows event on table shop.orders; Can't find record in 'orders'", 0, False),
        ("Coordinator stopped because there were error(s) in the worker(s).", 1, True),
    ],
)
@BOTH
async def test_only_rows_of_memory_tables_are_passed_over(
    followers: Followers, source: str, follower: str, files: Any, error: str, in_memory: int, passed: bool
) -> None:
    broken = {"Last_SQL_Errno": 1032, "Last_SQL_Error": error, f"{follower}_SQL_Running": "No"}
    failing: Any = Engine(source, follower, **broken)
    failing.answer = in_memory
    assert (await followers.hold_back(failing, files, await followers.status(failing)) == "") is passed
    assert any("IDEMPOTENT" in one for one in failing.ran) is passed
    named = ("shop", error.split(".")[1].split(";")[0]) if "on table" in error else ()
    assert failing.asked[0] == named


@BOTH
async def test_a_source_that_refuses_for_good_is_asked_again(
    followers: Followers, source: str, follower: str, files: Any
) -> None:
    """The engine says why once, and stops; who looks for it in the log may have come too late."""
    stopped = {f"{follower}_IO_Running": "No", "Last_IO_Errno": 1236, "Last_IO_Error": "Got fatal error 1236"}
    refused: Any = Engine(source, follower, **stopped)
    assert await followers.hold_back(refused, files, await followers.status(refused)) == ""
    assert refused.ran == [f"START {follower.upper()} IO_THREAD"]


@pytest.mark.parametrize(
    ("followers", "line"),
    [
        (MARIADB, "[ERROR] Slave SQL: An attempt was made to binlog GTID 0-1-19 with an out-of-order sequence number"),
        (MARIADB, "[ERROR] Slave I/O: Got fatal error 1236 from master when reading data from binary log"),
        (MARIADB, "[ERROR] Slave SQL: Error 'Duplicate entry '1' for key 'PRIMARY'' on query"),
        (MYSQL, "[ERROR] [MY-013114] [Repl] Replica I/O for channel '': Got fatal error 1236 from source when reading"),
        (MYSQL, "[ERROR] [MY-010584] [Repl] Replica SQL for channel '': Worker 1 failed executing transaction 'a:7'"),
    ],
)  # fmt: skip
def test_loss_is_told_by_the_log(followers: Followers, line: str) -> None:
    assert followers.loss(f"[Note] before\n{line}\n[Note] after")
    assert followers.loss("[Note] Slave I/O thread: connected\n[Warning] Aborted connection") == ""


def test_names_of_mysql_accounts_are_short_enough() -> None:
    assert len(MYSQL.user_of("node-0123456789abcdef0")) <= 32
