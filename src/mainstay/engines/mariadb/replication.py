"""Copying, promoting and observing MariaDB followers. See `EngineDriver` for what each guarantees.

A follower is told from a primary by a file in its data directory. It reaches its source over TCP, as a user of its own,
whose password nobody keeps but the follower: it is derived from the follower's private key, and the source learns its
hash, in a transaction that is not replicated, whenever the follower is about to be configured.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import shutil
from contextlib import suppress
from pathlib import Path

from mainstay.engines.mariadb.configuration import FOLLOW_STATEMENTS_FILE, SEMI_SYNC_TIMEOUT_MS
from mainstay.engines.mariadb.lineages import LeadsFrom, write_leads_from
from mainstay.engines.mariadb.physical_copy import copy_running
from mainstay.engines.mariadb.sessions import answering, session, unseen
from mainstay.engines.mysql_family.hashes import native_password
from mainstay.engines.mysql_family.log_places import file_number
from mainstay.engines.mysql_family.quoting import account, literal
from mainstay.engines.mysql_family.sessions import Error, Session
from mainstay.engines.mysql_family.trees import fsync_tree
from mainstay.engines.node_files import NodeFiles
from mainstay.host.files import fsync_directory
from mainstay.host.processes import User
from mainstay.model.assignment import Upstream
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import MainstayError, Permanent, Transient
from mainstay.model.node import NodeSpec, ReplicationStatus

STATUS_TIMEOUT_S = 5.0
DRAIN_LOOK_S = 0.2
CONFIRM_TIMEOUT_S = 10.0
FOLLOWER_FILE = "mainstay.follower"
ALL_APPLIED = "Slave has read all relay log"
IO_CONNECTED = "Yes"

MUST_BE = {
    "rpl_semi_sync_master_enabled": "ON",
    "rpl_semi_sync_master_wait_point": "AFTER_SYNC",
    "rpl_semi_sync_master_wait_no_slave": "ON",
    "rpl_semi_sync_master_timeout": str(SEMI_SYNC_TIMEOUT_MS),
    "sync_binlog": "1",
    "innodb_flush_log_at_trx_commit": "1",
}
"""What a primary must run with, or a commit could be acknowledged that one of the two has not on its disk."""

LOST = (
    ("which is not in the master's binlog", "the source has removed, or never had, what this replica needs next"),
    ("Got fatal error 1236", "the source cannot send what this replica needs next"),
    ("out-of-order sequence number", "this replica has transactions that its source never had"),
    ("Slave SQL: Error", "this replica could not apply a transaction of its source"),
    ("Slave: Error", "this replica could not apply a transaction of its source"),
    ("Relay log read failure", "what this replica had received is damaged"),
    ("Error in Log_event::read_log_event", "what this replica had received is damaged"),
)


def follows(files: NodeFiles) -> bool:
    """Whether the engine, once started, is a follower."""
    return (files.data / FOLLOWER_FILE).exists()


def user_of(node_id: str) -> str:
    """The account under which a node follows another."""
    return f"rdsrepladmin-{node_id}"


def password_of(spec: NodeSpec) -> str:
    """The follower's password: the same one as long as its certificate is."""
    return hmac.digest(spec.certificate.private_key_pem.encode(), b"mainstay replication", hashlib.sha256).hex()


async def follow_statements(spec: NodeSpec, files: NodeFiles, upstream: Upstream) -> str:
    """What makes the engine follow `upstream`, one statement a line; lets it in there.

    While the upstream does not answer: what was valid before. Raises `Transient` if there is nothing of that kind.
    """
    password = password_of(spec)
    follower = account(user_of(spec.node_id), "%")
    try:
        async with answering(Path(upstream.host), timeout_s=STATUS_TIMEOUT_S) as source:
            await unseen(source)
            await source.execute(f"CREATE USER IF NOT EXISTS {follower}")
            verifier = literal(native_password(password))
            await source.execute(f"ALTER USER {follower} IDENTIFIED VIA mysql_native_password USING {verifier}")
            await source.execute(f"GRANT REPLICATION SLAVE ON *.* TO {follower}")
            [(address, port)] = await source.execute("SELECT @@bind_address, @@port")
    except Error as error:
        raise Transient(f"the source does not let a follower in: {error}") from error
    except Transient:
        kept = files.configuration / FOLLOW_STATEMENTS_FILE
        if kept.exists():
            return kept.read_text()
        raise
    return (
        "STOP SLAVE;\n"
        f"CHANGE MASTER TO MASTER_HOST={literal(str(address))}, MASTER_PORT={int(port)},"
        f" MASTER_USER={literal(user_of(spec.node_id))}, MASTER_PASSWORD={literal(password)},"
        " MASTER_SSL=1, MASTER_SSL_VERIFY_SERVER_CERT=0, MASTER_CONNECT_RETRY=1, MASTER_HEARTBEAT_PERIOD=1,"
        " MASTER_USE_GTID=slave_pos;\n"
        "START SLAVE;\n"
    )


async def clone(spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User, upstream: Upstream) -> None:
    """mariadb-backup into a directory beside, put in place when it is complete and on disk.

    Every failure is `Transient`: what stood in the way (no room, a source that stopped) may be gone at the next try.
    """
    try:
        await _clone(files, build, user, upstream)
    except Permanent as error:
        raise Transient(f"copying failed: {error.message}", retry_after_s=2.0) from error


async def _clone(files: NodeFiles, build: EngineBuild, user: User, upstream: Upstream) -> None:
    unfinished = files.volume / "data.cloning"
    await _remove(unfinished)
    unfinished.mkdir(mode=0o700)
    user.give(unfinished)
    await copy_running(Path(upstream.host), unfinished, build, user)
    mark = unfinished / FOLLOWER_FILE
    mark.touch(mode=0o600)
    user.give(mark)
    await asyncio.to_thread(fsync_tree, unfinished)
    if files.data.exists():
        discarded = files.volume / "data.discarded"
        await _remove(discarded)
        files.data.rename(discarded)
    unfinished.rename(files.data)
    fsync_directory(files.volume)
    await _remove(files.volume / "data.discarded")


async def promote(files: NodeFiles) -> None:
    """Applies what was received, to the last transaction, and takes writes.

    Raises `Transient` while there is something to be applied: it is to be called again.
    """
    async with answering(files.sockets) as connection:
        status = await _slave_status(connection)
        if status:
            await _drain(connection, status)
            await connection.execute("STOP SLAVE")
        await connection.execute("SET GLOBAL rpl_semi_sync_slave_enabled = 0")
        for name in ("sync_binlog", "innodb_flush_log_at_trx_commit"):
            await connection.execute(f"SET GLOBAL {name} = 1")
        # What was applied until now was not forced to the disk one by one, and its relay log goes next.
        await connection.execute("FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS, BINARY LOGS")
        await connection.execute("RESET SLAVE ALL")
        # What it writes from now on is in the file that was begun just now, or in a later one.
        [(name, *_)] = await connection.execute("SHOW MASTER STATUS")
        position = str(await connection.value("SELECT @@GLOBAL.gtid_slave_pos"))
        await asyncio.to_thread(write_leads_from, files.data, LeadsFrom(position=position, file=file_number(str(name))))
        (files.data / FOLLOWER_FILE).unlink(missing_ok=True)
        fsync_directory(files.data)
        await connection.execute("SET GLOBAL read_only = 0")


async def _drain(connection: Session, status: dict[str, object]) -> None:
    await connection.execute("STOP SLAVE IO_THREAD")
    status = await _slave_status(connection) or status
    if status["Slave_SQL_Running"] != "Yes":
        await connection.execute("START SLAVE SQL_THREAD")
    received = str(status["Gtid_IO_Pos"])
    if received and await connection.value("SELECT MASTER_GTID_WAIT(%s, %s)", (received, DRAIN_LOOK_S)) != 0:
        status = await _slave_status(connection) or status
        if status["Last_SQL_Errno"]:
            raise Transient(f"the follower cannot apply what it received: {status['Last_SQL_Error']}")
        raise Transient("the follower applies what it received", retry_after_s=0.01)


async def confirm_synchronous(files: NodeFiles, follower: str) -> bool:
    """Makes certain, not likely, that commits wait for the follower.

    The settings are read; the follower is the only one that acknowledges; and a transaction of ours, begun after the
    settings are in force, was acknowledged while they were. Whatever was committed without waiting before that is
    earlier in the binary log, and the follower acknowledges positions of the log: it has that too. What comes into the
    log later looks at the settings later, and waits.
    """
    async with answering(files.sockets, timeout_s=CONFIRM_TIMEOUT_S, replicated=True) as connection:
        before = await _synchronous_state(connection, follower)
        if before is None:
            return False
        await connection.execute("REPLACE INTO mysql.rds_heartbeat2 VALUES (2, UNIX_TIMESTAMP())")
        return await _synchronous_state(connection, follower) == before


async def _synchronous_state(connection: Session, follower: str) -> tuple[str, ...] | None:
    """Commits that did not wait so far, and the follower's connection; None if commits need not wait."""
    names = ", ".join(literal(name) for name in MUST_BE)
    settings = await connection.execute(f"SHOW GLOBAL VARIABLES WHERE Variable_name IN ({names})")
    if {str(name): str(value) for name, value in settings} != MUST_BE:
        return None
    counters = await connection.execute("SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_master_%'")
    status = {str(name): str(value) for name, value in counters}
    if (status["Rpl_semi_sync_master_status"], status["Rpl_semi_sync_master_clients"]) != ("ON", "1"):
        return None
    dump = await connection.value(
        "SELECT ID FROM information_schema.PROCESSLIST WHERE USER = %s AND COMMAND LIKE 'Binlog Dump%%'",
        (user_of(follower),),
    )
    if dump is None:
        return None
    return (status["Rpl_semi_sync_master_no_tx"], status["Rpl_semi_sync_master_no_times"], str(dump))


async def replication_status(files: NodeFiles) -> ReplicationStatus | None:
    """Lag as the follower sees it: zero when it has applied all that its source has sent."""
    try:
        async with session(files.sockets, timeout_s=STATUS_TIMEOUT_S) as connection:
            status = await _slave_status(connection)
            applied = str(await connection.value("SELECT @@GLOBAL.gtid_slave_pos"))
    except (Error, MainstayError):
        return None
    return judge(status, applied)


def judge(status: dict[str, object], applied: str) -> ReplicationStatus:
    """What a row of SHOW SLAVE STATUS says, with the position up to which everything is applied."""
    if not status:
        return ReplicationStatus(streaming=False, message="the replica does not follow anybody yet")
    stopped = status["Slave_SQL_Running"] != "Yes"
    error = str(status["Last_SQL_Error"] or status["Last_IO_Error"] or "")
    if status["Slave_IO_Running"] == "Connecting" and not error:
        return ReplicationStatus(streaming=False, connecting=True, message="the source has not answered yet")
    streaming = status["Slave_IO_Running"] == "Yes" and not status["Last_SQL_Errno"]
    if streaming and not stopped and status["Gtid_IO_Pos"] == applied:
        return ReplicationStatus(streaming=True, lag_s=0.0, lag_bytes=0)
    behind = status["Seconds_Behind_Master"]
    return ReplicationStatus(
        streaming=streaming,
        paused=streaming and stopped,
        lag_s=None if behind is None else float(str(behind)),
        message="" if streaming else error or "the source is not sending",
    )


async def hold_back(connection: Session) -> str:
    """Why this follower cannot apply what it receives, "" if it can.

    As long as it cannot, it receives and acknowledges no more, and tries again to apply: the reason is then in the log
    over and over (`loss`). Both threads are never started together: that discards what was received.
    """
    status = await _slave_status(connection)
    if not status:
        return ""
    if status["Last_SQL_Errno"]:
        if status["Slave_IO_Running"] != "No":
            await connection.execute("STOP SLAVE IO_THREAD")
        if status["Slave_SQL_Running"] != "Yes":
            await connection.execute("START SLAVE SQL_THREAD")
        return str(status["Last_SQL_Error"])
    if (status["Slave_IO_Running"], status["Slave_SQL_Running"], status["Last_IO_Errno"]) == ("No", "Yes", 0):
        applied = await connection.value("SELECT @@GLOBAL.gtid_slave_pos")
        if status["Gtid_IO_Pos"] == applied:  # it goes on from what is applied: what is not would come twice
            await connection.execute("START SLAVE IO_THREAD")
    return ""


async def follow(connection: Session, statements: str) -> None:
    """Runs `follow_statements` unless the engine follows that source already.

    Starting to follow anew discards what was received and not applied: of a standby that has acknowledged it, that must
    not happen for a mere change of its password.
    """
    status = await _slave_status(connection)
    here = f"MASTER_HOST={literal(str(status.get('Master_Host')))}, MASTER_PORT={status.get('Master_Port')},"
    if status and here in statements:
        return
    for statement in statements.splitlines():
        await connection.execute(statement.rstrip(";"))


def loss(log_text: str) -> str:
    """What a follower's log says when its source cannot, or can no longer, continue what the follower has."""
    for line in reversed(log_text.splitlines()):
        for words, reason in LOST:
            if words in line:
                return reason
    return ""


async def _slave_status(connection: Session) -> dict[str, object]:
    rows = await connection.records("SHOW SLAVE STATUS")
    return rows[0] if rows else {}


async def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        await asyncio.to_thread(shutil.rmtree, path)
