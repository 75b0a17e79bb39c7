"""Multi-AZ MariaDB and MySQL with a node that hangs or is cut off, and nobody told: who acknowledges, and who never.

Every protection that these tests rely on is taken out by a control, which must then see the harm.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from harness.dialects import MARIADB, MYSQL, EngineUnderTest, newest_of
from harness.mysql_family_pairs import WORDS, MysqlFamilyMultiAZ
from harness.pairs import freezer_works
from harness.sabotage import SabotagedService
from harness.service import Service, eventually
from harness.silence import why_no_silence
from harness.writers import Operation, Outcome, Verdict, Writers, clock_s, describe_gaps, gaps, judge

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1200)]

ENGINES = [*newest_of(MARIADB), *newest_of(MYSQL)]
FROZEN_MAX_S = 60.0
SLEEP_S, LONG_SLEEP_S = 1.0, 12.0
"""The longer one is longer than the time-out of the control that has one."""

without_silence = pytest.mark.skipif(bool(why_no_silence()), reason=why_no_silence())


@pytest.fixture(scope="module", params=ENGINES, ids=lambda one: one.dialect.engine)
def pair(request: pytest.FixtureRequest) -> Iterator[MysqlFamilyMultiAZ]:
    with Service() as service:
        yield made(service, request.param)


@pytest.fixture(autouse=True)
def whole(request: pytest.FixtureRequest) -> None:
    """Every test of the shared pair begins with one that is in sync, and an empty table."""
    if "pair" in request.fixturenames:
        pair: MysqlFamilyMultiAZ = request.getfixturevalue("pair")
        pair.await_in_sync()
        pair.make_table()


def made(service: Service, engine: EngineUnderTest) -> MysqlFamilyMultiAZ:
    """A Multi-AZ instance with the writers' database."""
    return MysqlFamilyMultiAZ(service, engine, engine.create(service, "m1", MultiAZ=True, DBName="shop"))


@contextmanager
def sabotaged(name: str, engine: EngineUnderTest) -> Iterator[MysqlFamilyMultiAZ]:
    """A pair, in sync and with an empty table, of a service that lacks something."""
    with SabotagedService(name) as service:
        pair = made(service, engine)
        pair.await_in_sync()
        pair.make_table()
        yield pair


def verdict_of(pair: MysqlFamilyMultiAZ, *clients: Writers) -> Verdict:
    """About all that these clients know. They have been stopped."""
    operations = [one for writers in clients for one in writers.operations]
    return judge(operations, {row for writers in clients for row in writers.read}, pair.rows())


# F2


def replaced_while_frozen(pair: MysqlFamilyMultiAZ, writers: Writers, stranded: Writers) -> tuple[float, float]:
    """Freezes the primary until the other node leads, and thaws it; when it was frozen, and when another one led."""
    before = pair.await_in_sync()
    eventually(lambda: writers.acknowledged_since(0) and stranded.acknowledged_since(0))
    with (pair.frozen if freezer_works() else pair.stopped)(before.primary) as pids:
        assert pids
        frozen_at = time.monotonic()
        after = pair.await_epoch(before.epoch + 1, timeout_s=FROZEN_MAX_S)
        fenced_at = time.monotonic()
        assert after.primary == before.standby
        eventually(lambda: writers.acknowledged_since(frozen_at), interval_s=0.01)
    return frozen_at, fenced_at


def test_frozen_primary_is_replaced_and_never_acknowledges_again(pair: MysqlFamilyMultiAZ, full: bool) -> None:
    """F2. The old one has clients on its side: they are told nothing more, and what they were told before is kept."""
    for _ in range(3 if full else 1):
        former = pair.postmaster(pair.primary)
        with pair.writers() as writers, pair.stranded(pair.primary) as stranded:
            frozen_at, fenced_at = replaced_while_frozen(pair, writers, stranded)
            eventually(lambda pid=former: not psutil.pid_exists(pid))
            time.sleep(1.0)
            stranded.stop()
            pair.await_in_sync()
            writers.stop()
        late = stranded.acknowledged_after(fenced_at)
        assert not late, f"{len(late)} commits were acknowledged by the old primary in the new epoch"
        verdict = verdict_of(pair, writers, stranded)
        print(f"F2, {pair.name}: {verdict}; {describe_gaps(gaps(writers.operations, [frozen_at]))}")
        assert verdict.clean, str(verdict)
        pair.make_table()


@pytest.mark.parametrize("engine", ENGINES, ids=lambda one: one.dialect.engine)
def test_control_an_unfenced_primary_acknowledges_in_the_new_epoch(engine: EngineUnderTest) -> None:
    """Two protections are taken out: nobody kills it, and its commits do not wait for the node that follows no more."""
    with sabotaged("fencing_off", engine) as pair:
        primary = pair.primary
        with pair.writers() as writers, pair.stranded(primary) as stranded:
            pair.as_operator(primary, f"SET GLOBAL {WORDS[pair.name].semi_sync}enabled = 0")
            _frozen_at, fenced_at = replaced_while_frozen(pair, writers, stranded)
            eventually(lambda: stranded.acknowledged_after(fenced_at))
        late = stranded.acknowledged_after(fenced_at)
        print(f"fencing off, {pair.name}: {len(late)} commits were acknowledged by the old primary in the new epoch")


# F3


def acknowledged_too_early(pair: MysqlFamilyMultiAZ) -> tuple[list[Operation], Writers, Writers]:
    """Isolates the primary until its clients go on; what they were told before it was recorded to be alone."""
    before = pair.await_in_sync()
    with pair.writers() as writers, pair.stranded(before.primary) as stranded:
        eventually(lambda: writers.acknowledged_since(0) and stranded.acknowledged_since(0))
        with pair.isolated(before.primary):
            cut_at, offset = time.monotonic(), clock_s()
            eventually(lambda: stranded.acknowledged_since(cut_at), interval_s=0.01)
            resumed_at = time.monotonic()
            record = eventually(lambda: not pair.record.standby and pair.record)
            assert not writers.acknowledged_since(cut_at), "nothing was cut"
            assert (record.epoch, record.primary) == (before.epoch, before.primary), "and nobody else leads"
        healed_at = time.monotonic()
        eventually(lambda: writers.acknowledged_since(healed_at))
        assert pair.await_in_sync().epoch == before.epoch
        stranded.stop()
        writers.stop()
    early = [
        one
        for one in stranded.operations
        if one.outcome is Outcome.ACKNOWLEDGED and one.began > cut_at and one.ended + offset < record.since
    ]
    print(f"F3, {pair.name}: clients on the side of the primary went on after {resumed_at - cut_at:.1f} s")
    return early, writers, stranded


def test_an_idle_primary_commits_what_only_the_standby_can_acknowledge(pair: MysqlFamilyMultiAZ) -> None:
    """By that is the silence of F3 noticed. One such commit is made without it, to confirm that the pair is in sync."""
    seen: set[int] = set()

    def pulses_arrive() -> bool:
        rows = pair.as_operator(pair.standby, "SELECT value FROM mysql.rds_heartbeat2 WHERE id = 2")
        seen.update(value for (value,) in rows)
        return len(seen) >= 3

    eventually(pulses_arrive)


@without_silence
def test_isolated_primary_goes_on_alone_when_that_is_recorded_and_heals_by_itself(pair: MysqlFamilyMultiAZ) -> None:
    """F3. Who cannot reach it waits; who can is answered as soon as the standby can never lead without what he writes.

    The agent sees both nodes: it keeps the one that leads.
    """
    early, writers, stranded = acknowledged_too_early(pair)
    assert not early, f"{len(early)} commits were acknowledged by the primary alone before that was recorded"
    verdict = verdict_of(pair, writers, stranded)
    print(f"F3, {pair.name}: {verdict}")
    assert verdict.clean, str(verdict)


@without_silence
@pytest.mark.parametrize("engine", ENGINES, ids=lambda one: one.dialect.engine)
def test_control_alone_recorded_late_is_seen(engine: EngineUnderTest, full: bool) -> None:
    if not full:
        pytest.skip("in `make faults` only")
    with sabotaged("alone_recorded_late", engine) as pair:
        early, _writers, _stranded = acknowledged_too_early(pair)
        print(f"alone recorded late, {pair.name}: {len(early)} commits were acknowledged before it was")
        assert early


# What a commit waits for


def lost_while_nobody_watched(pair: MysqlFamilyMultiAZ, sleep_s: float) -> tuple[int, Verdict]:
    """The standby receives nothing for so long, then the primary dies, and only then does the agent look; what was
    acknowledged meanwhile. (A standby that hangs would find what was sent to it in its socket.)"""
    before = pair.await_in_sync()
    with pair.writers(readers=2) as writers:
        eventually(writers.acknowledged)
        with pair.service.stopped("agent"):
            pair.as_operator(before.standby, f"STOP {WORDS[pair.name].follower.upper()} IO_THREAD")
            hung_at = time.monotonic()
            time.sleep(sleep_s)
            waited = writers.acknowledged_since(hung_at)
            pair.kill(before.primary)
        pair.await_epoch(before.epoch + 1)
        writers.resumed()
        pair.await_in_sync()
        writers.stop()
    return waited, verdict_of(pair, writers)


def test_a_commit_waits_for_the_standby_as_long_as_it_takes_and_nobody_sees_it(
    pair: MysqlFamilyMultiAZ, full: bool
) -> None:
    waited, verdict = lost_while_nobody_watched(pair, LONG_SLEEP_S if full else SLEEP_S)
    print(f"deaf standby, {pair.name}: {verdict}")
    assert not waited, f"{waited} commits were acknowledged without the standby"
    assert verdict.clean, str(verdict)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda one: one.dialect.engine)
def test_control_after_commit_with_a_time_out_is_caught(engine: EngineUnderTest, full: bool) -> None:
    """Waiting AFTER_COMMIT shows to others what may be lost; waiting for ten seconds loses what was acknowledged."""
    with sabotaged("after_commit", engine) as pair:
        waited, verdict = lost_while_nobody_watched(pair, LONG_SLEEP_S if full else SLEEP_S)
        print(f"AFTER_COMMIT and 10 s, {pair.name}: {waited} acknowledged meanwhile; {verdict}")
        assert verdict.unread, "what was seen and lost is not noticed"
        assert not full or (waited and verdict.lost), "what was acknowledged and lost is not noticed"


def test_frozen_standby_lets_writes_go_on_after_that_was_recorded(pair: MysqlFamilyMultiAZ) -> None:
    with pair.writers() as writers:
        eventually(lambda: writers.acknowledged() > 30)
        before = pair.await_in_sync()
        with pair.stopped(before.standby):
            frozen = time.monotonic()
            eventually(lambda: not pair.record.standby)
            eventually(lambda: writers.acknowledged_since(frozen))
            assert pair.record.primary == before.primary
        pair.await_in_sync()
        writers.stop()
    verdict = verdict_of(pair, writers)
    assert verdict.clean, str(verdict)
