"""Multi-AZ MariaDB and MySQL under kills: no acknowledged commit is lost, none seen that was not, writes go on soon.

The controls take a protection out and must see a loss or a stall; else these tests would prove nothing. What hangs or
is cut off is the subject of `test_mysql_family_silence.py`, what a host without power or room leaves that of
`test_mysql_family_hosts.py`.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress

import pytest

from harness.dialects import DIALECTS, MARIADB, MYSQL, EngineUnderTest, newest_of
from harness.mysql_family_pairs import WORDS, Lost, MysqlFamilyMultiAZ, Told
from harness.service import Service, eventually
from harness.writers import Gap, Writers, describe_gaps, gaps, judge, loss_bound, percentile
from mainstay.engines.mysql_family.followers import FOLLOWER_FILE
from mainstay.engines.mysql_family.trees import RELAY_LOG

KILLS = "MAINSTAY_KILLS"
"""In the environment: how many kills of the primary, for a run in pieces."""

KILLS_A_BATCH = 10
P50_MAX_S, P99_MAX_S = 0.7, 2.0
TELLING_S, LOGGED_S_MAX = 4.0, 60.0
"""A gap that is longer is printed with what was logged meanwhile: whoever reads of it later has nothing else."""

LARGE_ROWS, LARGE_ROW_BYTES, A_PART_BYTES = 96, 1 << 20, 1 << 20
HALF_S_MAX = 15.0
"""MySQL's own patience with half a transaction is a minute."""

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module", params=[*newest_of(MARIADB), *newest_of(MYSQL)], ids=lambda one: one.dialect.engine)
def pair(request: pytest.FixtureRequest) -> Iterator[MysqlFamilyMultiAZ]:
    engine: EngineUnderTest = request.param
    with Service() as service:
        yield MysqlFamilyMultiAZ(service, engine, engine.create(service, "m1", MultiAZ=True, DBName="shop"))


@pytest.fixture(autouse=True)
def whole(pair: MysqlFamilyMultiAZ) -> None:
    """Every test begins with a pair that is in sync, and an empty table."""
    pair.await_in_sync()
    pair.make_table()


def write_much(pair: MysqlFamilyMultiAZ) -> None:
    """One transaction that takes a while to be sent, for as long as somebody answers."""
    with suppress(Lost, Told), pair.connect() as session:
        session.execute("BEGIN")
        for _ in range(LARGE_ROWS):
            session.execute(f"INSERT INTO large (text) VALUES (REPEAT(SHA2(UUID(), 256), {LARGE_ROW_BYTES // 64}))")
        session.execute("COMMIT")


def settle(pair: MysqlFamilyMultiAZ, writers: Writers, title: str) -> None:
    """The end of a test: in sync, and nothing wrong with the history; prints it."""
    pair.await_in_sync()
    writers.stop()
    verdict = judge(writers.operations, writers.read, pair.rows())
    print(f"{title}, {pair.name}: {verdict}")
    assert verdict.clean, str(verdict)
    assert verdict.acknowledged > 0


def gaps_of(pair: MysqlFamilyMultiAZ, writers: Writers, faults: Sequence[float]) -> list[Gap]:
    """What the clients saw of each fault."""
    found = gaps(writers.operations, faults)
    for fault, gap in zip(faults, found, strict=True):
        worst_s = max(gap.to_first_commit_s, gap.longest_silence_s)
        if worst_s > TELLING_S:
            print(f"{pair.name}, {gap}:\n{pair.log_of(fault, min(3 * worst_s, LOGGED_S_MAX))}")
    return found


def test_primary_killed(pair: MysqlFamilyMultiAZ, full: bool) -> None:
    """F1, in batches with a table of their own: how long a copy takes must not grow with the number of kills.

    In every other batch the standby is behind with applying.
    """
    found: list[Gap] = []
    backlogs: list[int] = []
    acknowledged = 0
    wanted = int(os.environ.get(KILLS, "100" if full else "4"))
    for batch, start in enumerate(range(0, wanted, KILLS_A_BATCH)):
        pair.make_table()
        busy = pair.busy_applier() if batch % 2 or not full else nullcontext()
        with pair.writers() as writers, busy:
            kills, behind = pair.kill_rounds_here(
                writers, min(KILLS_A_BATCH, wanted - start), ("everything", "shim"), dwell_s=0.5
            )
            settle(pair, writers, f"F1, batch {batch + 1}")
        assert writers.read, "the readers have seen nothing"
        found += gaps_of(pair, writers, kills)
        backlogs += behind
        acknowledged += writers.acknowledged()
    print(f"F1, {pair.name}: {acknowledged} acknowledged; {describe_gaps(found)}; {loss_bound(len(found))}")
    print(f"F1, {pair.name}: transactions to be applied at the kill: {sorted(backlogs)}")
    print(f"F1, {pair.name}: gaps {[round(one.to_first_commit_s, 2) for one in found]}")
    assert sum(gap.indeterminate > 0 for gap in found) >= 0.8 * len(found), "too few kills hit a commit in flight"
    if full:
        assert max(backlogs) > 0, "the standby had applied everything at every kill"
        first = [gap.to_first_commit_s for gap in found]
        assert percentile(first, 50) <= P50_MAX_S and percentile(first, 99) <= P99_MAX_S


def test_standby_killed_stops_no_write_for_long_and_loses_nothing(pair: MysqlFamilyMultiAZ) -> None:
    with pair.writers() as writers:
        eventually(lambda: writers.acknowledged() > 30)
        before = pair.await_in_sync()
        killed = pair.kill(before.standby)
        eventually(lambda: writers.acknowledged_since(killed) > 30)
        eventually(lambda: pair.record.since > before.since and pair.record.standby)
        record = pair.await_in_sync()
        assert record.primary == before.primary and record.epoch == before.epoch
        pair.kill(record.primary)
        pair.await_epoch(record.epoch + 1)
        eventually(lambda: writers.acknowledged_since(time.monotonic() - 1))
        settle(pair, writers, "standby killed")


def test_both_killed_at_once_nothing_is_lost(pair: MysqlFamilyMultiAZ) -> None:
    """What the standby had received and not applied is gone with its process: it must not lead then."""
    with pair.writers() as writers:
        eventually(lambda: writers.acknowledged() > 100)
        before = pair.await_in_sync()
        with pair.service.stopped("agent"):
            for node in (before.standby, before.primary):
                pair.kill(node)
        writers.resumed()
        settle(pair, writers, "both killed")


def test_new_primary_killed_while_it_takes_over(pair: MysqlFamilyMultiAZ, full: bool) -> None:
    """What it had received and not applied is gone with it; the former primary, killed before, has everything."""
    taken_back = 0
    with pair.writers() as writers:
        for _round in range(20 if full else 3):
            count = writers.acknowledged()
            eventually(lambda count=count: writers.acknowledged() > count + 200)
            before = pair.await_in_sync()
            pair.kill(before.primary)
            after = pair.await_epoch(before.epoch + 1)
            killed = pair.kill(after.primary)
            eventually(lambda since=killed: writers.acknowledged_since(since))
            record = pair.await_in_sync()
            taken_back += record.failovers[-1].row == "taken-back"
        writers.stop()
    verdict = judge(writers.operations, writers.read, pair.rows())
    print(f"new primary killed, {pair.name}: {verdict}; {taken_back} times the former one led again")
    assert verdict.clean, str(verdict)


def test_standby_lost_and_primary_killed_at_once(pair: MysqlFamilyMultiAZ, chance: random.Random, full: bool) -> None:
    """F6: whether it was recorded already that the standby has ended or not, it does not lead in the end."""
    with pair.writers() as writers:
        for _ in range(10 if full else 1):
            before = pair.await_in_sync()
            eventually(lambda: writers.acknowledged_since(time.monotonic() - 1))
            pair.kill(before.standby)
            time.sleep(chance.uniform(0.0, 0.3))
            pair.kill(before.primary)
            writers.resumed()
            # If its end was not seen yet it may have been told to lead, and was not able to: that is taken back.
            assert pair.record.primary == before.primary, "a standby that had ended was promoted"
        settle(pair, writers, "F6")


def test_stale_standby_is_never_promoted(pair: MysqlFamilyMultiAZ) -> None:
    """F7: it returns first, while the primary, which has more, does not come up."""
    before = pair.await_in_sync()
    with pair.writers() as writers:
        eventually(writers.acknowledged)
        pair.kill(before.standby)
        eventually(lambda: pair.record.standby == "", interval_s=0.002)
        writers.resumed()
        with pair.unstartable(before.primary):
            pair.kill(before.primary)
            killed_by = time.monotonic()
            eventually(lambda: pair.postmaster(before.standby))
            time.sleep(2.0)
            record = pair.record
            assert (record.epoch, record.primary, record.standby) == (before.epoch, before.primary, "")
            assert (pair.volume(before.standby) / "data" / FOLLOWER_FILE).exists(), "the stale standby was promoted"
            assert not writers.acknowledged_since(killed_by), "the primary was to be down"
        writers.resumed()
        assert pair.record.epoch == before.epoch
        settle(pair, writers, "F7")


@pytest.mark.parametrize("step", ["promote", "degrade", "enable"])
def test_agent_killed(pair: MysqlFamilyMultiAZ, step: str, chance: random.Random, full: bool) -> None:
    """F8: at random instants of what the pair does; at each of them the simulation (test_pair.py)."""
    if step != "promote" and not full:
        pytest.skip("in `make faults` only")
    longest_s = {"promote": 0.3, "degrade": 0.1, "enable": 4.0}[step]
    with pair.writers() as writers:
        for _ in range(12 if full else 1):
            before = pair.await_in_sync()
            eventually(lambda: writers.acknowledged_since(time.monotonic() - 1))
            pair.kill(before.standby if step == "degrade" else before.primary)
            if step == "enable":
                pair.await_epoch(before.epoch + 1)
                writers.resumed()
            time.sleep(chance.uniform(0.0, longest_s))
            pair.service.kill("agent")
            writers.resumed()
        settle(pair, writers, f"F8 {step}")


def test_primary_killed_while_a_standby_joins(pair: MysqlFamilyMultiAZ, chance: random.Random, full: bool) -> None:
    """F9: the copy, the start, the catching up, the confirmation: whatever the joining has come to."""
    faults = []
    with pair.writers() as writers:
        for _ in range(20 if full else 1):
            before = pair.await_in_sync()
            faults.append(pair.kill(before.primary))
            pair.await_epoch(before.epoch + 1)
            writers.resumed()
            time.sleep(chance.uniform(0.0, 3.0))
            faults.append(pair.kill(pair.primary))
            writers.resumed()
        settle(pair, writers, "F9")
    found = gaps_of(pair, writers, faults)
    print(f"F9, {pair.name}: {describe_gaps(found)}")
    print(f"F9, {pair.name}: gaps {[round(one.to_first_commit_s, 2) for one in found]}")


def test_a_standby_that_its_primary_does_not_know_is_let_in_again(pair: MysqlFamilyMultiAZ) -> None:
    """As when it was started while that one was too busy to be told, or killed right after it was told."""
    before, words = pair.await_in_sync(), WORDS[pair.name]
    follower = f"{words.follower_user}{before.standby}"
    known = f"SELECT User FROM mysql.user WHERE User = '{follower}'"
    dumps = f"SELECT ID FROM information_schema.PROCESSLIST WHERE USER = '{follower}' AND COMMAND LIKE 'Binlog Dump%'"
    with pair.writers() as writers:
        [(dump,)] = pair.as_operator(before.primary, dumps)
        pair.as_operator(before.primary, "SET sql_log_bin = 0", f"DROP USER '{follower}'@'%'", f"KILL {dump}")
        eventually(lambda: pair.as_operator(before.primary, known))
        eventually(lambda: [row for row in pair.as_operator(before.primary, dumps) if row[0] != dump])
        after = pair.await_in_sync(timeout_s=120)
        assert (after.epoch, after.primary) == (before.epoch, before.primary)
        assert after.standby_incarnation == before.standby_incarnation, "it was not started anew"
        settle(pair, writers, "not known")


def test_a_standby_that_has_much_to_apply_is_not_in_sync_yet(pair: MysqlFamilyMultiAZ) -> None:
    """It receives and acknowledges; but to take over it would have to apply first, and the primary starts sooner."""
    before = pair.await_in_sync()
    eventually(lambda: pair.unapplied() == 0)  # the table itself
    with pair.operating(before.standby) as session, session.cursor() as cursor:
        cursor.execute("LOCK TABLES shop.kept READ")  # whoever applies waits
        with pair.writers() as writers:
            eventually(lambda: writers.acknowledged() > 300)
        assert pair.unapplied() > 0
        pid = pair.postmaster(before.standby)
        os.kill(pid, signal.SIGSTOP)
        try:
            eventually(lambda: not pair.record.standby)
        finally:
            os.kill(pid, signal.SIGCONT)
        # A session that begins to wait for the standby shows that it is followed and asked to acknowledge again.
        eventually(lambda: pair.commits_wait(before.primary))
        time.sleep(3.0)
        assert not pair.record.standby, "a standby that applies nothing was recorded as ready to take over"
        cursor.execute("UNLOCK TABLES")
        after = pair.await_in_sync(timeout_s=10)
    assert (after.epoch, after.standby_incarnation) == (before.epoch, before.standby_incarnation)


def test_hung_primary_is_fenced(pair: MysqlFamilyMultiAZ) -> None:
    with pair.writers() as writers:
        eventually(lambda: writers.acknowledged() > 30)
        before = pair.await_in_sync()
        os.kill(pair.postmaster(before.primary), signal.SIGSTOP)
        after = pair.await_epoch(before.epoch + 1)
        assert after.primary == before.standby
        writers.resumed()
        settle(pair, writers, "hung")


def test_control_a_primary_that_does_not_wait_loses_commits(pair: MysqlFamilyMultiAZ) -> None:
    """Semi-synchronous replication off, behind the pair's back, and a standby that does not receive: rows are lost."""
    before = pair.await_in_sync()
    words = WORDS[pair.name]
    pair.as_operator(before.primary, f"SET GLOBAL {words.semi_sync}enabled = 0")
    with pair.writers() as writers:
        pair.as_operator(before.standby, f"STOP {words.follower.upper()} IO_THREAD")
        count = writers.acknowledged()
        eventually(lambda: writers.acknowledged() > count + 50, interval_s=0.005)
        pair.kill(before.primary)
        if pair.record.standby:
            pair.await_epoch(before.epoch + 1)
        eventually(lambda: writers.acknowledged_since(time.monotonic() - 1))
        writers.stop()
    verdict = judge(writers.operations, writers.read, pair.rows())
    assert verdict.lost, "the test would not notice a loss"


def killed_in_a_transaction(pair: MysqlFamilyMultiAZ, receiver: str) -> float:
    """Kills the primary while it sends a large transaction, of which this node has a part; returns when that was."""
    with pair.connect() as session:
        session.execute("DROP TABLE IF EXISTS large")
        session.execute("CREATE TABLE large (id int AUTO_INCREMENT PRIMARY KEY, text longtext)")
    before = pair.await_in_sync()
    relay_logs, engine = pair.volume(receiver) / "data", pair.postmaster(before.primary)

    def received() -> int:
        return sum(path.stat().st_size for path in relay_logs.glob(f"{RELAY_LOG}.0*"))

    had = received()
    writing = threading.Thread(target=write_much, args=(pair,), daemon=True)
    writing.start()
    eventually(lambda: received() > had + A_PART_BYTES, timeout_s=30.0, interval_s=0.0)
    os.kill(engine, signal.SIGKILL)
    killed_at = time.monotonic()
    pair.await_epoch(before.epoch + 1)
    writing.join()
    return killed_at


def test_half_a_transaction_on_the_standby_keeps_nobody_waiting(pair: MysqlFamilyMultiAZ) -> None:
    """The primary ends while it sends a large one: what came of it was never acknowledged, and will never be whole."""
    killed_at = killed_in_a_transaction(pair, pair.await_in_sync().standby)
    with pair.writers(writers=1, readers=0) as writers:
        eventually(lambda: writers.acknowledged_since(killed_at), timeout_s=90.0, interval_s=0.01)
    gap_s = time.monotonic() - killed_at
    print(f"half a transaction, {pair.name}: writes go on after {gap_s:.2f} s")
    with pair.connect() as session:
        assert session.execute("SELECT COUNT(*) FROM large").fetchall() == [(0,)], "it was whole: nothing was shown"
    assert gap_s < HALF_S_MAX


def test_half_a_transaction_on_a_replica_keeps_it_from_following_nobody(pair: MysqlFamilyMultiAZ) -> None:
    """MySQL's own patience would be two minutes, as it is told twice to follow the new primary."""
    [engine] = newest_of(DIALECTS[pair.name])
    with Service() as service:
        members = {"MultiAZ": True, "DBName": "shop", "BackupRetentionPeriod": 1}
        source = MysqlFamilyMultiAZ(service, engine, engine.create(service, "source", **members))
        service.client("rds").create_db_instance_read_replica(
            DBInstanceIdentifier="replica", SourceDBInstanceIdentifier="source"
        )
        service.await_status("replica", "available")
        source.make_table()
        replica = str(service.node("replica")["node"])
        killed_at = killed_in_a_transaction(source, replica)
        with source.writers(writers=1, readers=0):
            eventually(lambda: source.rows_of(replica), timeout_s=150.0)
        gap_s = time.monotonic() - killed_at
        print(f"half a transaction on a replica, {source.name}: it follows after {gap_s:.2f} s")
        assert source.as_operator(replica, "SELECT COUNT(*) FROM shop.large") == [(0,)], "it was whole"
        assert gap_s < HALF_S_MAX
