"""Letting followers in, promoting and observing them. See `EngineDriver` for what each guarantees.

A follower is told from a primary by a file in its data directory. It reaches its source over TCP, as a user of its own,
whose password nobody keeps but the follower: it is derived from the follower's private key, and the source learns its
verifier, in a transaction that is not replicated, whenever the follower is about to be configured.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog
from pymysql.constants import ER

from mainstay.engines.copy_room import discarded_data, remove
from mainstay.engines.mysql_family import events, unforced
from mainstay.engines.mysql_family.accounts import EVERY_HOST
from mainstay.engines.mysql_family.heartbeat import PULSE
from mainstay.engines.mysql_family.layout import FOLLOW_STATEMENTS_FILE
from mainstay.engines.mysql_family.lineages import LeadsFrom, write_leads_from
from mainstay.engines.mysql_family.local_sessions import answering, asking, binary_logs, run_all, session
from mainstay.engines.mysql_family.log_places import file_number
from mainstay.engines.mysql_family.procedures import APPLY
from mainstay.engines.mysql_family.quoting import account, literal
from mainstay.engines.mysql_family.sessions import Error, Session, number_of
from mainstay.engines.mysql_family.trees import fsync_relay_logs, fsync_tree, has_more
from mainstay.engines.mysql_family.words import Words
from mainstay.engines.node_files import NodeFiles
from mainstay.host.files import fsync_directory, write_atomically
from mainstay.host.processes import User
from mainstay.model.assignment import Upstream
from mainstay.model.errors import CannotLead, MainstayError, Permanent, Transient
from mainstay.model.node import NodeSpec, ReplicationStatus

STATUS_TIMEOUT_S = 5.0
DRAIN_LOOK_S = 0.2
CONFIRM_TIMEOUT_S = 10.0
CHANGE_OVER_PATIENCE_S = 2.0
TAKEN_BACK_LOOK_S, TAKEN_BACK_TIMEOUT_S = 0.01, 20.0
KEPT_UP_S = 0.2
"""A standby keeps up that has applied what it has received so long after it was asked."""

KEEP_UP_PATIENCE_S = 15.0
UNNUMBERED = -1
"""MariaDB's, of a statement that has failed in another way, or not at all, where it was logged."""

FOLLOWER_FILE = "mainstay.follower"
MEMORY_TABLES = (
    "SELECT COUNT(*) FROM information_schema.TABLES WHERE ENGINE = 'MEMORY' AND TABLE_TYPE = 'BASE TABLE'"
    " AND TABLE_SCHEMA NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')"
)
ONE_OF_THEM = " AND TABLE_SCHEMA = %s AND TABLE_NAME = %s"
ROW_OF = re.compile(r"event on table ([^.\s]+)\.(.+?); Can't find record")
"""The table of a row that was not found, in the words of MariaDB; MySQL's coordinator leaves it to its workers."""

DISCARDED_FILE = "mainstay.discarded"
"""In the data of a follower that may have discarded what it had received and could not apply."""

log = structlog.get_logger()


class FollowerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a follower says of itself. `receiving` is "Yes", "No" or "Connecting"; `received` are GTIDs.

    `apply_errno` is 0 only if there is no error; it is `UNNUMBERED` for one that has no number.
    """

    source_host: str
    source_port: int
    receiving: str
    applying: bool
    receive_errno: int
    receive_error: str
    apply_errno: int
    apply_error: str
    received: str
    behind_s: float | None


def follows(files: NodeFiles) -> bool:
    """Whether the engine, once started, is a follower."""
    return (files.data / FOLLOWER_FILE).exists()


def password_of(spec: NodeSpec, characters: int) -> str:
    """The follower's password: the same one as long as its certificate is, 4 bits a character."""
    key = spec.certificate.private_key_pem.encode()
    return hmac.digest(key, b"mainstay replication", hashlib.sha256).hex()[:characters]


async def empty_directory(path: Path, user: User) -> None:
    """Makes a directory of the engine's user, in the place of whatever was there."""
    await remove(path)
    _make(path, user)


def _make(path: Path, user: User) -> None:
    path.mkdir(mode=0o700)
    user.give(path)


async def copied(copy: Callable[[], Awaitable[None]]) -> None:
    """Every failure is `Transient`: what stood in the way (no room, a source that stopped) may be gone next time."""
    try:
        await copy()
    except Permanent as error:
        raise Transient(f"copying failed: {error.message}", retry_after_s=2.0, hint=error.hint) from error


async def put_in_place(unfinished: Path, files: NodeFiles, user: User) -> None:
    """The complete copy becomes the node's data, that of a follower, once it is on the disk."""
    discarded = discarded_data(files)
    await remove(discarded)
    _mark(unfinished / FOLLOWER_FILE, user)
    await asyncio.to_thread(fsync_tree, unfinished)
    _exchange(unfinished, files, discarded)  # not in the thread, which would go on after this was cancelled
    unforced.forget(files)
    await remove(discarded)


def _mark(path: Path, user: User) -> None:
    path.touch(mode=0o600)
    user.give(path)


def _exchange(unfinished: Path, files: NodeFiles, discarded: Path) -> None:
    if files.data.exists():
        files.data.rename(discarded)
    unfinished.rename(files.data)
    fsync_directory(files.volume)


def judge(status: FollowerStatus | None, everything_applied: bool) -> ReplicationStatus:
    """What a follower's status means to those who look at it."""
    if status is None:
        return ReplicationStatus(streaming=False, message="the replica does not follow anybody yet")
    error = status.apply_error or status.receive_error
    if status.receiving == "Connecting" and not error:
        return ReplicationStatus(streaming=False, connecting=True, message="the source has not answered yet")
    streaming = status.receiving == "Yes" and not status.apply_errno
    if streaming and status.applying and everything_applied:
        return ReplicationStatus(streaming=True, lag_s=0.0, lag_bytes=0)
    return ReplicationStatus(
        streaming=streaming,
        paused=streaming and not status.applying,
        lag_s=status.behind_s,
        message="" if streaming else error or "the source is not sending",
    )


class Followers:
    """The followers of one engine, in its words. `verifier` makes of a password what the engine stores, as SQL."""

    def __init__(self, words: Words, verifier: Callable[[str], str]) -> None:
        self._words = words
        self._verifier = verifier

    def user_of(self, node_id: str) -> str:
        """The account under which a node follows another."""
        return f"{self._words.follower_user}{node_id}"

    async def follow_statements(self, spec: NodeSpec, files: NodeFiles, upstream: Upstream) -> str:
        """What makes the engine follow `upstream`, one statement a line; lets it in there.

        While the upstream does not answer: what was valid before. Raises `Transient` if there is nothing of that kind.
        """
        words = self._words
        try:
            async with answering(Path(upstream.host), timeout_s=STATUS_TIMEOUT_S) as source:
                address, _present_port, password = await self.let_in(source, spec)
        except Error as error:
            raise Transient(f"the source does not let a follower in: {error}") from error
        except Transient:
            kept = files.configuration / FOLLOW_STATEMENTS_FILE
            if kept.exists() and f"_PORT={upstream.port}," in (statements := kept.read_text()):
                return statements
            raise
        source_is, follower_is = words.source.upper(), words.follower.upper()
        # The port that it is to have: it may have been told to move, and not have been restarted yet.
        return (
            f"STOP {follower_is};\n"
            f"{words.change} {source_is}_HOST={literal(address)}, {source_is}_PORT={upstream.port},"
            f" {source_is}_USER={literal(self.user_of(spec.node_id))}, {source_is}_PASSWORD={literal(password)},"
            f" {source_is}_SSL=1, {source_is}_SSL_VERIFY_SERVER_CERT=0, {source_is}_CONNECT_RETRY=1,"
            f" {source_is}_HEARTBEAT_PERIOD=1, {words.position};\n"
            f"START {follower_is};\n"
        )

    async def let_in(self, source: Session, spec: NodeSpec) -> tuple[str, int, str]:
        """Makes the follower's account in its source; the source's address and port, and the password."""
        await run_all(source, self._words.unseen)
        follower = account(self.user_of(spec.node_id), EVERY_HOST)
        password = password_of(spec, self._words.password_characters)
        identified = f"{follower} IDENTIFIED {self._words.identified} {self._verifier(password)}"
        await source.execute(f"CREATE USER IF NOT EXISTS {identified}")
        await source.execute(f"ALTER USER {identified}")
        await source.execute(f"GRANT {self._words.follower_rights} ON *.* TO {follower}")
        [(address, port)] = await source.execute("SELECT @@bind_address, @@port")
        return str(address), int(port), password

    async def status(self, connection: Session) -> FollowerStatus | None:
        """None if the engine follows nobody."""
        source, follower = self._words.source.title(), self._words.follower.title()
        rows = await connection.records(f"SHOW {follower.upper()} STATUS")
        if not rows:
            return None
        row, behind = rows[0], rows[0][f"Seconds_Behind_{source}"]
        apply_error = str(row["Last_SQL_Error"] or "")
        return FollowerStatus(
            source_host=str(row[f"{source}_Host"]),
            source_port=int(row[f"{source}_Port"]),
            receiving=str(row[f"{follower}_IO_Running"]),
            applying=row[f"{follower}_SQL_Running"] == "Yes",
            receive_errno=int(row["Last_IO_Errno"]),
            receive_error=str(row["Last_IO_Error"] or ""),
            apply_errno=int(row["Last_SQL_Errno"]) or (UNNUMBERED if apply_error else 0),
            apply_error=apply_error,
            received=str(row[self._words.received] or "").replace("\n", ""),
            behind_s=None if behind is None else float(str(behind)),
        )

    async def promote(self, files: NodeFiles) -> None:
        """Applies what was received, to the last transaction, and takes writes.

        Raises `Transient` while there is something to be applied: it is to be called again. Raises `Answered` if the
        engine refuses a step, `CannotLead`.
        """
        follower = self._words.follower.upper()
        async with asking(files.sockets) as connection:
            if await self.status(connection) is not None:
                await self._drain(connection, files)
                await self._drop_half(connection, files)
                await connection.execute(f"STOP {follower}")
            await connection.execute(f"SET GLOBAL rpl_semi_sync_{self._words.follower}_enabled = 0")
            for name in ("sync_binlog", "innodb_flush_log_at_trx_commit"):
                await connection.execute(f"SET GLOBAL {name} = 1")
            # What was applied until now was not forced to the disk one by one, and its relay log goes next.
            await connection.execute("FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS, BINARY LOGS")
            await connection.execute(f"RESET {follower} ALL")
            await self._note_leading(connection, files)
            await events.restore(connection, files)
            (files.data / FOLLOWER_FILE).unlink(missing_ok=True)
            fsync_directory(files.data)
            unforced.forget(files)
            await connection.execute("SET GLOBAL read_only = 0")
            with suppress(Error):  # it had the values by replication only; nothing of it may keep it from leading
                await connection.execute(APPLY)
        events.forget(files)

    async def _note_leading(self, connection: Session, files: NodeFiles) -> None:
        """Where it takes over: what it writes from now on is in the file that was begun just now, or in a later one."""
        name, _end = (await binary_logs(connection))[-1]
        leads_from = LeadsFrom(
            position=str(await connection.value(self._words.applied)),
            file=file_number(name),
            unlogged=str(await connection.value(self._words.unlogged)),
        )
        await asyncio.to_thread(write_leads_from, files.data, leads_from)

    async def _drain(self, connection: Session, files: NodeFiles) -> None:
        follower = self._words.follower.upper()
        status = await self.status(connection)
        if status is None:
            return
        stopped = status.receiving == "No" and not status.applying
        if (files.data / DISCARDED_FILE).exists() or (stopped and not self._words.start_keeps):
            raise CannotLead("it may lack what it has acknowledged: it could not apply it, and has discarded it")
        # While it still receives: see `_start_applying`.
        if not status.applying and not await self._passes_over(connection, files, status):
            await self._start_applying(connection, files, status)
        await connection.execute(f"STOP {follower} IO_THREAD")
        status = await self.status(connection)
        if status is None:
            return
        wait = (status.received, DRAIN_LOOK_S)
        if status.received and await connection.value(self._words.wait_applied, wait) != 1:
            status = await self.status(connection)
            if status is not None and status.apply_errno and not status.applying:
                raise CannotLead(f"it cannot apply what it has received: {status.apply_error}")
            raise Transient("the follower applies what it received", retry_after_s=0.01)

    async def _drop_half(self, connection: Session, files: NodeFiles) -> None:
        """What a source that died has left of a transaction that it was sending goes: the rest of it will never come.

        To be called when nothing is received any more and all that was received in whole is applied. MySQL, told to
        stop, waits a minute for the rest, but not if the thread that hands out the work is ended before. Raises
        `Transient` while what was applied of it is taken back.
        """
        words = self._words
        if not words.hands_out:
            return
        for row in await connection.records(f"SHOW {words.follower.upper()} STATUS"):
            place = (files.data, str(row["Relay_Log_File"]), int(row["Relay_Log_Pos"]))
            if await asyncio.to_thread(has_more, *place):
                break
        else:
            return
        try:
            await connection.execute(f"KILL {int(await connection.value(words.hands_out) or 0)}")
            async with asyncio.timeout(TAKEN_BACK_TIMEOUT_S):
                while True:
                    status = await self.status(connection)
                    if status is None or not status.applying:
                        return
                    await asyncio.sleep(TAKEN_BACK_LOOK_S)
        except TimeoutError as error:
            raise Transient("half a transaction is being taken back", retry_after_s=0.1) from error
        except Error as error:
            if number_of(error) != ER.NO_SUCH_THREAD:
                raise

    async def confirm_synchronous(self, files: NodeFiles, follower: str) -> bool:
        """Makes certain, not likely, that commits wait for the follower.

        The settings are read; the follower is the only one that acknowledges; and a transaction of ours, begun after
        the settings are in force, was acknowledged while they were. Whatever was committed without waiting before that
        is earlier in the binary log, and the follower acknowledges positions of the log: it has that too. What comes
        into the log later looks at the settings later, and waits.

        Before that it is given some time to apply what it has received since it was copied.
        """
        standby = files.of(follower)
        if not await self._forces(standby) or not await self._keeps_up(standby.sockets):
            return False
        async with asking(files.sockets, timeout_s=CONFIRM_TIMEOUT_S, replicated=True) as connection:
            before = await self._synchronous_state(connection, follower)
            if before is None:
                return False
            await connection.execute(PULSE)
            return await self._synchronous_state(connection, follower) == before

    async def _forces(self, standby: NodeFiles) -> bool:
        """Whether all that the standby has received is durable, and what it receives from now on is before it
        acknowledges it. It is told to force that when commits are to wait for it, not before.
        """
        try:
            async with session(standby.sockets, timeout_s=STATUS_TIMEOUT_S) as connection:
                if int(await connection.value("SELECT @@GLOBAL.sync_relay_log")) != 1:
                    return False
        except (Error, Transient):
            return False
        await asyncio.to_thread(fsync_relay_logs, standby.data)
        return True

    async def _keeps_up(self, standby: Path) -> bool:
        """Waits until the standby applies within a moment what it receives; False if it does not answer.

        A failover waits for what is not applied: one to a standby that has just begun, under load, would take longer
        than the primary takes to start again. One that never gets there is worth more than none.
        """
        now = asyncio.get_running_loop().time
        deadline = now() + KEEP_UP_PATIENCE_S
        try:
            async with session(standby, timeout_s=STATUS_TIMEOUT_S) as connection:
                while now() < deadline:
                    status = await self.status(connection)
                    if status is None or not status.received:
                        return status is not None
                    if await connection.value(self._words.wait_applied, (status.received, KEPT_UP_S)) == 1:
                        return True
        except (Error, Transient):
            return False
        log.warning("follower.does_not_keep_up", sockets=str(standby), waited_s=KEEP_UP_PATIENCE_S)
        return True

    async def _synchronous_state(self, connection: Session, follower: str) -> tuple[str, ...] | None:
        """Commits that did not wait so far, and the follower's connection; None if commits need not wait."""
        must_be = self._words.source_settings
        names = ", ".join(literal(name) for name in must_be)
        settings = await connection.execute(f"SHOW GLOBAL VARIABLES WHERE Variable_name IN ({names})")
        if {str(name): str(value) for name, value in settings} != must_be:
            return None
        counters = await connection.execute(f"SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_{self._words.source}_%'")
        status = {str(name).rpartition(f"{self._words.source}_")[2]: str(value) for name, value in counters}
        if (status["status"], status["clients"]) != ("ON", "1"):
            return None
        dump = await connection.value(
            "SELECT ID FROM information_schema.PROCESSLIST WHERE USER = %s AND COMMAND LIKE 'Binlog Dump%%'",
            (self.user_of(follower),),
        )
        return None if dump is None else (status["no_tx"], status["no_times"], str(dump))

    async def replication_status(self, files: NodeFiles) -> ReplicationStatus | None:
        """Lag as the follower sees it: zero when it has applied all that its source has sent."""
        try:
            async with session(files.sockets, timeout_s=STATUS_TIMEOUT_S) as connection:
                status = await self.status(connection)
                return judge(status, status is not None and await self._applied(connection, status))
        except (Error, MainstayError):
            return None

    async def _applied(self, connection: Session, status: FollowerStatus) -> bool:
        return bool(await connection.value(self._words.is_applied, (status.received,)))

    async def hold_back(self, connection: Session, files: NodeFiles, status: FollowerStatus | None) -> str:
        """Why this follower, of this status, cannot apply what it receives, "" if it can.

        As long as it cannot, it receives and acknowledges no more, and tries again to apply: the reason is then in the
        log over and over (`loss`). Both threads are never started together: that discards what was received.
        """
        follower = self._words.follower.upper()
        if status is None:
            return ""
        if await self._passes_over(connection, files, status):
            status = msgspec.structs.replace(status, apply_errno=0, applying=True)
        if status.apply_errno:
            await self._try_again(connection, files, status)
            return status.apply_error
        # Held back, or refused by its source: that is in the log once for each time that it asks.
        if status.receiving == "No" and status.applying and await self._applied(connection, status):
            # It goes on from what is applied: what is not would come twice.
            await connection.execute(f"START {follower} IO_THREAD")
        elif status.receiving == "Yes":
            (files.data / DISCARDED_FILE).unlink(missing_ok=True)
        return ""

    async def _try_again(self, connection: Session, files: NodeFiles, status: FollowerStatus) -> None:
        """To apply what it could not, and to receive no more.

        The first new try is made while it still receives.
        """
        if not status.applying:
            await self._start_applying(connection, files, status)
        if status.receiving != "No":
            await connection.execute(f"STOP {self._words.follower.upper()} IO_THREAD")

    async def _start_applying(self, connection: Session, files: NodeFiles, status: FollowerStatus) -> None:
        """Of MariaDB, that discards what was received if nothing is being received: it is asked for again.

        It may have been acknowledged: this is noted before, and until it is received again `promote` refuses.
        """
        if status.receiving == "No" and not self._words.start_keeps:
            await asyncio.to_thread(write_atomically, files.data / DISCARDED_FILE, b"")
        await connection.execute(f"START {self._words.follower.upper()} SQL_THREAD")

    async def _passes_over(self, connection: Session, files: NodeFiles, status: FollowerStatus) -> bool:
        """Whether a row that was not found is one of a MEMORY table; if so, the follower goes on, and without it.

        A follower that was copied or started has these tables empty, and its source's have their rows: copying it anew
        would not help, and would not end. Until this process ends, rows that are not there, of whatever table, are
        passed over. Until then a row that is missing is an error, unless the engine does not say of which table it is
        and there are MEMORY tables.
        """
        if status.apply_errno != ER.KEY_NOT_FOUND:
            return False
        found = ROW_OF.search(status.apply_error)
        asked = (MEMORY_TABLES, ()) if found is None else (MEMORY_TABLES + ONE_OF_THEM, found.groups())
        if not await connection.value(*asked):
            return False
        log.warning("follower.passes_over_missing_rows", error=status.apply_error)
        await connection.execute(f"SET GLOBAL {self._words.follower}_exec_mode = 'IDEMPOTENT'")
        if not status.applying:
            await self._start_applying(connection, files, status)
        return True

    async def follow(self, connection: Session, files: NodeFiles, statements: str) -> None:
        """Runs `follow_statements` unless the engine follows that source already.

        Starting to follow anew discards what was received and not applied: of a standby that has acknowledged it, that
        must not happen for a mere change of its password.
        """
        status, source = await self.status(connection), self._words.source.upper()
        if status is not None:
            here = f"{source}_HOST={literal(status.source_host)}, {source}_PORT={status.source_port},"
            if here in statements:
                return
            if self._words.hands_out:
                await connection.execute(f"STOP {self._words.follower.upper()} IO_THREAD")
                if await connection.value(self._words.wait_applied, (status.received, CHANGE_OVER_PATIENCE_S)) == 1:
                    await self._drop_half(connection, files)
        await run_all(connection, [line.rstrip(";") for line in statements.splitlines()])

    def loss(self, log_text: str) -> str:
        """What a follower's log says when its source cannot, or can no longer, continue what the follower has."""
        for line in reversed(log_text.splitlines()):
            for words, reason in self._words.lost:
                if words in line:
                    return reason
        return ""
