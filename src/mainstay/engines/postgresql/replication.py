"""Copying, winding back, promoting and observing PostgreSQL followers. See `EngineDriver` for what each guarantees."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg

from mainstay.backups.sources import walk
from mainstay.engines.copy_room import ROOM_PERCENT, discarded_data, make_room, remove
from mainstay.engines.node_files import NodeFiles
from mainstay.engines.postgresql.configuration import ADMIN_ROLE, AT_LEAST_AS_SOURCE, connection_string
from mainstay.engines.postgresql.sessions import Session, answering, session, value
from mainstay.host.files import fsync_directory
from mainstay.host.processes import User, run
from mainstay.model.assignment import Upstream
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import MainstayError, Permanent, Transient
from mainstay.model.node import NodeSpec, ReplicationStatus

COPY_TIMEOUT_S = 24 * 3600.0
TOOL_TIMEOUT_S = 60.0
RELOAD_TIMEOUT_S = 10.0
CATCH_UP_TIMEOUT_S = 10.0
CHECKPOINT_TIMEOUT_MS = 600_000
REWIND_ABOVE_BYTES = 512 << 20
"""A smaller database is copied faster than its crashed former primary recovers and is wound back."""

LOG_BESIDE_BYTES = 64 << 20
"""A few segments."""

FOLLOWER_FILE = "standby.signal"
ASKED_JUST_NOW_S = 1.0
CONNECT_MAX_S = 15.0
FOLLOWING = """SELECT w.status = 'streaming', w.last_msg_send_time <> w.last_msg_receipt_time,
 coalesce(p.wait_event = 'WalReceiverMain', false),
 extract(epoch FROM clock_timestamp() - coalesce(p.backend_start, clock_timestamp()))::float8,
 pg_wal_lsn_diff(coalesce(w.latest_end_lsn, w.flushed_lsn, w.receive_start_lsn), pg_last_wal_replay_lsn())::bigint,
 extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8, pg_is_wal_replay_paused()
 FROM (SELECT) AS once LEFT JOIN pg_stat_wal_receiver AS w ON pg_is_in_recovery()
 LEFT JOIN pg_stat_activity AS p USING (pid) WHERE pg_is_in_recovery()"""


def bytes_for_copying(data: Path) -> int:
    """What a copy of this data takes; of the log it has only what is written meanwhile. Blocking."""
    kept = sum(one.size for one in walk(data) if not one.path.startswith("pg_wal/"))
    return kept * ROOM_PERCENT // 100 + LOG_BESIDE_BYTES


def follows(files: NodeFiles) -> bool:
    """Whether the engine, once started, is a follower."""
    return (files.data / FOLLOWER_FILE).exists()


async def clone(spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User, upstream: Upstream) -> None:
    """pg_basebackup into a directory beside, put in place when it is complete and on disk.

    Every failure is `Transient`: what stood in the way (no room, a source that stopped) may be gone at the next try.
    """
    try:
        await _clone(spec, files, build, user, upstream)
    except Permanent as error:
        raise Transient(f"copying failed: {error.message}", retry_after_s=2.0) from error


async def _clone(spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User, upstream: Upstream) -> None:
    unfinished = files.volume / "data.cloning"
    await remove(unfinished)
    await make_room(files, upstream, bytes_for_copying)
    await _upstream_tool(
        [
            str(build.bin_directory / "pg_basebackup"),
            f"--pgdata={unfinished}",
            f"--dbname={connection_string(upstream, spec.node_id + '-copy')}",
            "--wal-method=stream",
            "--checkpoint=fast",
            "--no-password",
        ],
        build,
        user,
    )
    (unfinished / "postgresql.auto.conf").write_text("")  # nothing a former life of the source has left in it
    _mark_follower(unfinished, user)
    if files.data.exists():
        discarded = discarded_data(files)
        await remove(discarded)
        files.data.rename(discarded)
    unfinished.rename(files.data)
    _unfinished_mark(files).unlink(missing_ok=True)
    fsync_directory(files.volume)
    await remove(discarded_data(files))


async def rejoin(spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User, upstream: Upstream) -> None:
    """pg_rewind where a copy would take longer; a copy where that fails, or was interrupted."""
    if not _unfinished_mark(files).exists() and await _size_bytes(upstream) > REWIND_ABOVE_BYTES:
        try:
            await rewind(files, build, user, upstream)
        except Permanent:
            pass  # WAL of the time before the histories parted may be gone: that is what the copy is for
        else:
            return
    await clone(spec, files, build, user, upstream)


async def rewind(files: NodeFiles, build: EngineBuild, user: User, upstream: Upstream) -> None:
    """Winds the data back to where its history and the upstream's part. Raises `Permanent` if that cannot be done.

    Interrupted in the middle it leaves data that is of no use; a mark says so until it is complete.
    """
    _unfinished_mark(files).touch()
    fsync_directory(files.volume)
    # The upstream's new timeline is in its control file, where pg_rewind looks for it, from the next checkpoint on.
    await _checkpoint(upstream)
    await _upstream_tool(
        [
            str(build.bin_directory / "pg_rewind"),
            f"--target-pgdata={files.data}",
            f"--source-server={connection_string(upstream, 'mainstay-rewind')} dbname={ADMIN_ROLE}",
            f"--config-file={files.configuration / 'postgresql.conf'}",
        ],
        build,
        user,
    )
    _mark_follower(files.data, user)
    _unfinished_mark(files).unlink()
    fsync_directory(files.volume)


async def promote(files: NodeFiles, build: EngineBuild, user: User) -> None:
    """pg_ctl leaves the trigger file and signals the postmaster; the promotion itself goes on in the background."""
    try:
        await run(
            [str(build.bin_directory / "pg_ctl"), "promote", f"--pgdata={files.data}", "--no-wait"],
            user=user,
            timeout_s=TOOL_TIMEOUT_S,
            env=build.environment,
        )
    except Permanent as error:
        if follows(files):
            raise Transient(f"the follower cannot be promoted yet: {error.message}", retry_after_s=0.1) from error


async def confirm_synchronous(spec: NodeSpec, files: NodeFiles, follower: str) -> bool:
    """Makes certain, not likely, that commits wait for the follower.

    That synchronous_standby_names is set says little: commits wait when the checkpointer has read it and has raised the
    flag in shared memory (SyncRepUpdateSyncStandbysDefined). The postmaster passes a reload on to the checkpointer in
    the same loop as to our session, maybe after it; when a second reload has reached us the first has reached
    everybody. The checkpointer acts on it before it begins the checkpoint that we ask for next. What was acknowledged
    until then is on the primary's disk below the position read afterwards, which the follower must reach.
    """
    async with answering(files.sockets, spec.port) as connection:
        await reload_twice(connection)
        await connection.execute(f"SET statement_timeout = {CHECKPOINT_TIMEOUT_MS}".encode())
        await connection.execute("CHECKPOINT")
        position = await value(connection, "SELECT pg_current_wal_insert_lsn()::text")
        deadline = asyncio.get_running_loop().time() + CATCH_UP_TIMEOUT_S
        while asyncio.get_running_loop().time() < deadline:
            cursor = await connection.execute(
                "SELECT flush_lsn >= %s::pg_lsn FROM pg_stat_replication"
                " WHERE application_name = %s AND state = 'streaming' AND sync_state = 'sync'",
                (position, follower),
            )
            row = await cursor.fetchone()
            if row is None:
                return False
            if row[0]:
                return True
            await asyncio.sleep(0.01)
    return False


async def reload_twice(connection: Session) -> None:
    """See `confirm_synchronous`."""
    await reload(connection)
    await reload(connection)


async def reload(connection: Session) -> None:
    """pg_reload_conf() only signals; our session has read the files when its load time has moved."""
    before = await value(connection, "SELECT pg_conf_load_time()")
    await connection.execute("SELECT pg_reload_conf()")
    deadline = asyncio.get_running_loop().time() + RELOAD_TIMEOUT_S
    while await value(connection, "SELECT pg_conf_load_time()") == before:
        if asyncio.get_running_loop().time() > deadline:
            raise Transient(f"the engine did not reload its settings within {RELOAD_TIMEOUT_S} s")
        await asyncio.sleep(0.01)


async def settle_writes(spec: NodeSpec, files: NodeFiles) -> None:
    """A checkpoint now is what the shutdown checkpoint need not write."""
    async with answering(files.sockets, spec.port) as connection:
        await connection.execute(f"SET statement_timeout = {CHECKPOINT_TIMEOUT_MS}".encode())
        await connection.execute("CHECKPOINT")


async def replication_status(spec: NodeSpec, files: NodeFiles) -> ReplicationStatus | None:
    """Lag as the follower sees it: zero when it has replayed all that its source has told it of."""
    try:
        async with asyncio.timeout(5.0), session(files.sockets, spec.port) as connection:
            row = await (await connection.execute(FOLLOWING)).fetchone()
    except (psycopg.Error, TimeoutError):
        return None
    if row is None:
        return None
    status, heard, waits, receiver_age_s, behind_bytes, age_s, paused = row
    streaming = receives(bool(status), heard=bool(heard), waits=waits, age_s=receiver_age_s)
    if streaming is None:
        return ReplicationStatus(streaming=False, connecting=True, message="the source has not answered yet")
    if streaming and behind_bytes is not None and behind_bytes <= 0:
        return ReplicationStatus(streaming=True, lag_s=0.0, lag_bytes=0, paused=paused)
    return ReplicationStatus(
        streaming=bool(streaming),
        lag_s=None if age_s is None else max(0.0, age_s),
        lag_bytes=behind_bytes,
        paused=paused,
        message="" if streaming else "the source is not sending",
    )


def receives(status: bool, *, heard: bool, waits: bool, age_s: float) -> bool | None:
    """Whether a WAL receiver of this age is being sent to, None while that cannot be known.

    It calls itself streaming (`status`) from its start, before it has connected, and one that is refused is started
    anew several times a second. `heard`: there was a message, because it was sent and received at different moments;
    until then both are the receiver's own start. An idle source may have none for seconds: then it is enough that the
    receiver `waits` for one, and has done more than begin to.
    """
    if not status:
        return False
    if heard or (waits and age_s > ASKED_JUST_NOW_S):
        return True
    return False if age_s > CONNECT_MAX_S else None


def loss(log_text: str) -> str:
    """What a follower's log says when its source cannot, or can no longer, continue what the follower has."""
    for line in reversed(log_text.splitlines()):
        if "has already been removed" in line:
            return "the source has removed WAL that this replica has not received"
        if "forked off current database system timeline" in line or "is not in this server's history" in line:
            return "this replica has received what the new primary of its source never had"
    return ""


async def source_floors(files: NodeFiles, build: EngineBuild) -> dict[str, int]:
    """What the source of this follower's data has of the settings that a follower must not undercut."""
    output = await run(
        [str(build.bin_directory / "pg_controldata"), f"--pgdata={files.data}"],
        timeout_s=TOOL_TIMEOUT_S,
        env=build.environment,
    )
    found = {}
    for line in output.decode(errors="replace").splitlines():
        name, _, number = line.partition(" setting:")
        if name == "max_locks_per_xact":
            name = "max_locks_per_transaction"
        elif name == "max_prepared_xacts":
            name = "max_prepared_transactions"
        if name in AT_LEAST_AS_SOURCE and number.strip().isdigit():
            found[name] = int(number)
    return found


async def _upstream_tool(argv: list[str], build: EngineBuild, user: User) -> None:
    """Runs a tool that needs the upstream; that it went away is `Transient`, anything else `Permanent`."""
    try:
        await run(argv, user=user, timeout_s=COPY_TIMEOUT_S, env=build.environment)
    except Permanent as error:
        lost = (
            "connection to server",
            "could not connect",
            "connection failed",
            "terminating connection",
            "closed the",
        )
        if any(text in error.message for text in lost):
            raise Transient(f"the source went away: {error.message}", retry_after_s=0.5) from error
        raise


async def _checkpoint(upstream: Upstream) -> None:
    async with answering(Path(upstream.host), upstream.port) as connection:
        await connection.execute(f"SET statement_timeout = {CHECKPOINT_TIMEOUT_MS}".encode())
        await connection.execute("CHECKPOINT")


async def _size_bytes(upstream: Upstream) -> int:
    try:
        async with answering(Path(upstream.host), upstream.port) as connection:
            size = await value(connection, "SELECT sum(pg_database_size(oid))::bigint FROM pg_database")
    except MainstayError:
        return 0
    return size if isinstance(size, int) else 0


def _mark_follower(data: Path, user: User) -> None:
    mark = data / FOLLOWER_FILE
    mark.touch(mode=0o600)
    user.give(mark)
    fsync_directory(data)


def _unfinished_mark(files: NodeFiles) -> Path:
    return files.volume / "rewinding"
