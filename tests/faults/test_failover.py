"""Multi-AZ under every fault that one host can produce: no acknowledged commit is lost, and writes go on soon.

Every test prints its counts and gaps. Times are goals of the product, not of the tests: what is asserted is generous.
tests/faults/test_controls.py shows that these tests turn red when a protection is taken out.
"""

from __future__ import annotations

import os
import pwd
import random
import socket
import subprocess
import time
from collections.abc import Iterator

import psycopg
import pytest

from harness.link import Link
from harness.pairs import MultiAZ, freezer_works
from harness.service import PASSWORD, Service, eventually
from harness.writers import Gap, Outcome, Writers, describe_gaps, gaps, judge, loss_bound, percentile

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1200)]

DELAY_S = (0.02, 0.05)
P99_MAX_S = 15.0
FROZEN_MAX_S = 30.0


@pytest.fixture(scope="module")
def pair() -> Iterator[MultiAZ]:
    """One Multi-AZ instance that these tests share; each leaves it in sync, with both nodes up."""
    with Service() as service:
        yield MultiAZ(service, service.create_instance("m1", MultiAZ=True))


@pytest.fixture(scope="module")
def link(pair: MultiAZ) -> Iterator[Link]:
    """The link between its nodes."""
    with Link(pair.service.settings.runtime / "nodes") as link:
        yield link


@pytest.fixture(autouse=True)
def whole(pair: MultiAZ, link: Link) -> Iterator[None]:
    """Every test begins and ends with a pair that is in sync, over a link that is fast."""
    link.restore()
    link.delay(0.0, 0.0)
    pair.await_in_sync()
    pair.relay_follower(link)
    pair.make_table()
    yield
    link.restore()
    link.delay(0.0, 0.0)


def settle(pair: MultiAZ, writers: Writers, faults: list[float], title: str) -> None:
    """The end of every test: in sync, and nothing wrong with the history; prints it."""
    pair.await_in_sync()
    writers.stop()
    verdict = judge(writers.operations, writers.read, pair.rows())
    print(f"{title}: {verdict}")
    if faults:
        print(f"{title}: {describe_gaps(gaps(writers.operations, faults))}")
    assert verdict.clean, str(verdict)
    assert verdict.acknowledged > 0


# F1


@pytest.mark.timeout(3600)
def test_primary_killed(pair: MultiAZ, link: Link, full: bool) -> None:
    """In batches, each with a table of its own: how long a copy takes must not grow with the number of kills."""
    link.delay(*DELAY_S)
    found: list[Gap] = []
    acknowledged = 0
    for batch in range(10 if full else 1):
        pair.make_table()
        with pair.writers(pause_s=0.01) as writers:
            kills = pair.kill_rounds(
                link, writers, 20 if full else 6, whats=("everything", "postmaster", "shim"), dwell_s=0.25
            )
            settle(pair, writers, kills, f"F1, batch {batch + 1}")
        assert writers.read, "the readers have seen nothing"
        found += gaps(writers.operations, kills)
        acknowledged += writers.acknowledged()
    print(f"F1: {acknowledged} acknowledged; {describe_gaps(found)}; {loss_bound(len(found))}")
    assert sum(gap.indeterminate > 0 for gap in found) >= 0.8 * len(found), "too few kills hit a commit in flight"
    assert percentile([gap.to_first_commit_s for gap in found], 99) <= P99_MAX_S
    if full:
        assert acknowledged >= 100_000


# F2


@pytest.mark.parametrize(
    "how",
    ["stopped", pytest.param("frozen", marks=pytest.mark.skipif(not freezer_works(), reason="no cgroup-v1 freezer"))],
)
def test_frozen_primary_is_replaced_and_never_acknowledges_again(pair: MultiAZ, how: str, full: bool) -> None:
    if how == "stopped" and not full:
        pytest.skip("the freezer does more; in the long run both are tried") if freezer_works() else None
    for _ in range(3 if full else 1):
        before = pair.await_in_sync()
        with pair.writers() as writers, pair.stranded(before.primary) as stranded:
            eventually(lambda: writers.acknowledged_since(0) and stranded.acknowledged_since(0))
            freeze = pair.stopped if how == "stopped" else pair.frozen
            with freeze(before.primary) as pids:
                assert len(pids) > 10
                frozen_at = time.monotonic()
                after = pair.await_epoch(before.epoch + 1, timeout_s=FROZEN_MAX_S)
                fenced_at = time.monotonic()
                assert after.primary == before.standby
                writers.resumed()
                time.sleep(1.0)
            time.sleep(1.5)
            stranded.stop()
            late = stranded.acknowledged_after(fenced_at)
            assert not late, f"{len(late)} commits were acknowledged by the old primary in the new epoch"
            local = {one.row for one in stranded.operations}
            pair.await_in_sync()
            writers.stop()
            verdict = judge(writers.operations, writers.read - local, set(pair.rows()) - local)
            print(f"F2 {how}: {verdict}; {describe_gaps(gaps(writers.operations, [frozen_at]))}")
            assert verdict.clean, str(verdict)
        pair.make_table()


# F4


@pytest.mark.parametrize("silently", [True, False])
def test_link_cut(pair: MultiAZ, link: Link, silently: bool, full: bool) -> None:
    if silently and not full:
        pytest.skip("silence takes longer to notice: in `make faults` only")
    before = pair.await_in_sync()
    with pair.writers() as writers:
        eventually(writers.acknowledged)
        link.cut(silently=silently)
        cut_at = time.monotonic()
        wall_offset = time.time() - time.monotonic()
        writers.resumed()
        record = pair.record
        assert (record.epoch, record.primary, record.standby) == (before.epoch, before.primary, "")
        early = [
            one
            for one in writers.operations
            if one.outcome is Outcome.ACKNOWLEDGED and one.began > cut_at and one.ended + wall_offset < record.since
        ]
        assert not early, f"{len(early)} commits were acknowledged by the primary alone before that was recorded"
        assert pair.service.describe(pair.identifier)["DBInstanceStatus"] == "available"
        time.sleep(0.5)
        assert pair.record.epoch == before.epoch
        link.restore()
        again = pair.await_in_sync()
        assert again.epoch == before.epoch
        settle(pair, writers, [cut_at], f"F4 {'silent' if silently else 'refused'}")


# F5


def event_ids(pair: MultiAZ) -> list[str]:
    """Messages of the instance's failover events."""
    pages = (
        pair.service.client("rds")
        .get_paginator("describe_events")
        .paginate(SourceIdentifier=pair.identifier, SourceType="db-instance", Duration=24 * 60)
    )
    messages = [event["Message"] for page in pages for event in page["Events"]]
    return [message for message in messages if "failover" in message.lower()]


def test_control_is_not_needed(pair: MultiAZ) -> None:
    before = pair.await_in_sync()
    eventually(lambda: pair.service.describe(pair.identifier).get("SecondaryAvailabilityZone"))
    shown = pair.service.describe(pair.identifier)
    told = len(event_ids(pair))
    with pair.writers() as writers:
        eventually(writers.acknowledged)
        with pair.service.stopped("control"):
            killed_at = pair.kill(before.primary)
            pair.await_epoch(before.epoch + 1)
            writers.resumed()
        settle(pair, writers, [killed_at], "F5")
    swapped = {
        "AvailabilityZone": shown["SecondaryAvailabilityZone"],
        "SecondaryAvailabilityZone": shown["AvailabilityZone"],
    }
    eventually(lambda: swapped.items() <= pair.service.describe(pair.identifier).items())
    assert pair.service.describe(pair.identifier)["Endpoint"] == shown["Endpoint"]
    eventually(lambda: len(event_ids(pair)) >= told + 2)
    messages = event_ids(pair)[told:]
    print(f"F5: {messages}")
    assert len(messages) == len(set(messages)), "an event was told twice"


# F6, F7


def test_stale_standby_is_never_promoted(pair: MultiAZ) -> None:
    before = pair.await_in_sync()
    with pair.writers() as writers:
        eventually(writers.acknowledged)
        # A database server refuses to start on data that everybody may read: so the standby returns first.
        data = pair.volume(before.primary) / "data"
        data.chmod(0o777)
        try:
            lost_at = pair.kill(before.standby)
            eventually(lambda: pair.record.standby == "", interval_s=0.002)
            writers.resumed()
            killed_at = pair.kill(before.primary)
            time.sleep(2.0)
            record = pair.record
            assert (record.epoch, record.primary, record.standby) == (before.epoch, before.primary, "")
            assert not (pair.volume(before.primary) / "data" / "standby.signal").exists()
            assert (pair.volume(before.standby) / "data" / "standby.signal").exists(), "the stale standby was promoted"
        finally:
            data.chmod(0o700)
        writers.resumed()
        assert pair.record.epoch == before.epoch
        settle(pair, writers, [lost_at, killed_at], "F7")


def test_standby_lost_and_primary_killed_at_once(pair: MultiAZ, chance: random.Random, full: bool) -> None:
    for _ in range(10 if full else 1):
        before = pair.await_in_sync()
        with pair.writers() as writers:
            eventually(writers.acknowledged)
            lost_at = pair.kill(before.standby)
            time.sleep(chance.uniform(0.0, 0.3))
            killed_at = pair.kill(before.primary)
            writers.resumed()
            assert pair.record.epoch == before.epoch, "a standby that had ended was promoted"
            settle(pair, writers, [lost_at, killed_at], "F6")
        pair.make_table()


# F9


def test_primary_killed_while_a_standby_joins(pair: MultiAZ, link: Link, chance: random.Random, full: bool) -> None:
    link.delay(*DELAY_S)
    with pair.writers() as writers:
        faults = []
        for _ in range(20 if full else 1):
            before = pair.await_in_sync()
            faults.append(pair.kill(before.primary))
            pair.await_epoch(before.epoch + 1)
            writers.resumed()
            time.sleep(chance.uniform(0.0, 2.5))
            faults.append(pair.kill(pair.primary))
            writers.resumed()
        settle(pair, writers, faults, "F9")


# F8


@pytest.mark.parametrize("step", ["promote", "degrade", "enable"])
def test_agent_killed(pair: MultiAZ, step: str, chance: random.Random, full: bool) -> None:
    if step != "promote" and not full:
        pytest.skip("in `make faults` only")
    with pair.writers() as writers:
        faults = []
        for _ in range(12 if full else 1):
            before = pair.await_in_sync()
            eventually(writers.acknowledged)
            faults.append(pair.kill(before.standby if step == "degrade" else before.primary))
            if step == "enable":
                pair.await_epoch(before.epoch + 1)
                writers.resumed()
            time.sleep(chance.uniform(0.0, {"promote": 0.15, "degrade": 0.1, "enable": 2.5}[step]))
            pair.service.kill("agent")
            writers.resumed()
        settle(pair, writers, faults, f"F8 {step}")


# F15


def test_flapping(pair: MultiAZ, full: bool) -> None:
    with pair.writers() as writers:
        faults = []
        for _ in range(5 if full else 2):
            faults.append(pair.kill(pair.primary))
            writers.resumed()
        settle(pair, writers, faults, "F15")
    eventually(lambda: pair.service.describe(pair.identifier)["DBInstanceStatus"] == "available")


# F16


def test_planned_changes_of_roles(pair: MultiAZ, full: bool) -> None:
    rds = pair.service.client("rds")
    with pair.writers(pause_s=0.02) as writers:
        faults = []
        for number in range(20 if full else 2):
            before = pair.await_in_sync()
            pair.service.await_status(pair.identifier, "available")
            faults.append(time.monotonic())
            if number % 2 == 0:
                rds.reboot_db_instance(DBInstanceIdentifier=pair.identifier, ForceFailover=True)
            else:
                kind = "db.t3.micro" if number % 4 == 3 else "db.t3.small"
                rds.modify_db_instance(
                    DBInstanceIdentifier=pair.identifier, DBInstanceClass=kind, ApplyImmediately=True
                )
            after = pair.await_epoch(before.epoch + 1)
            assert after.primary == before.standby
            writers.resumed()
        settle(pair, writers, faults, "F16")
    found = gaps(writers.operations, faults)
    print(f"F16: longest silences {[round(gap.longest_silence_s, 3) for gap in found]}")
    present = sorted(pair.rows())
    before = pair.await_in_sync()
    pair.service.await_status(pair.identifier, "available")
    rds.reboot_db_instance(DBInstanceIdentifier=pair.identifier, ForceFailover=True)
    pair.await_epoch(before.epoch + 1)
    assert sorted(pair.rows()) == present, "the two nodes did not hold the same"
    pair.service.await_status(pair.identifier, "available")


# F19


def test_second_agent_is_refused(pair: MultiAZ) -> None:
    agent = pair.service.process("agent")
    environment = {name: value for name, value in pair.service.environment.items() if name != "PYTHONPATH"}
    second = subprocess.run(
        [pair.service.python, "-m", "mainstay.agent"], env=environment, capture_output=True, timeout=30, check=False
    )
    assert second.returncode != 0
    assert pair.service.process("agent") == agent


def test_frozen_agent_does_no_harm(pair: MultiAZ) -> None:
    before = pair.await_in_sync()
    with pair.writers() as writers:
        eventually(writers.acknowledged)
        with pair.service.stopped("agent"):
            frozen_at = time.monotonic()
            time.sleep(5.0)
        time.sleep(1.5)
        record = pair.record
        assert (record.epoch, record.standby) == (before.epoch, before.standby), record.reason
        with pair.service.stopped("agent"):
            killed_at = pair.kill(before.primary)
            time.sleep(1.0)
            assert pair.record == record
        writers.resumed()
        assert pair.record.epoch == before.epoch + 1
        settle(pair, writers, [frozen_at, killed_at], "F19")


# Who may reach a standby


def test_nobody_reaches_the_standby(pair: MultiAZ) -> None:
    node = next(node for node in pair.service.nodes() if node["node"] == pair.await_in_sync().standby)
    for user in ("app", "rdsadmin", "postgres"):
        with pytest.raises(psycopg.OperationalError):
            pair.connect(host=node["address"], user=user, sslmode="require")
        with pytest.raises(psycopg.OperationalError):
            pair.connect(host=node["address"], user=user, sslmode="disable", password=PASSWORD)
    if os.geteuid() == 0:
        path = pair.service.settings.runtime / "nodes" / node["node"] / ".s.PGSQL.5432"
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
        try:
            with socket.socket(socket.AF_UNIX) as session, pytest.raises(PermissionError):
                session.connect(str(path))
        finally:
            os.seteuid(0)
