"""Multi-AZ MariaDB and MySQL on a host that loses its power, or whose disk fills up below the node that leads."""

from __future__ import annotations

import os
import random
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from harness.dialects import MARIADB, MYSQL, ClientError, EngineUnderTest, newest_of
from harness.full_disk import cramped, fill
from harness.mysql_family_pairs import MysqlFamilyMultiAZ
from harness.power import PowerlessService, cut_under_load, loses_commits, powerless
from harness.sabotage import SabotagedService
from harness.service import Service, eventually
from harness.shop import Shop
from harness.volumes import why_not
from harness.writers import Row, Writers, describe_gaps, gaps, judge
from mainstay.host.volumes import DRIVERS
from mainstay.model.pair import PairRecord

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root"),
]

VOLUME_MIB = 900
"""Room for an empty instance and a copy of it, and little more."""

WIDE_ROWS, WIDE_LEFT_MIB = 150, 200
"""Rows of a mebibyte each, and room for less than what a copy with them takes."""

LEFT_MIB = 60
A_LITTLE_BYTES = 700 << 10
"""Room for what a look needs, and less than what a disk has that is not full."""

SEEN_AGAIN_S = 75.0
"""Both engines look for room once a minute."""

STARTED_AGAIN_S = 30.0
"""An engine that must be started anew to be given more does not wait for that."""

BETWEEN_CUTS_S = 40.0
"""So long at most do clients write before a long run's power cuts: the kernel writes by itself after thirty seconds."""


def maker(engine: EngineUnderTest) -> Callable[[Service], MysqlFamilyMultiAZ]:
    """What makes a Multi-AZ instance with the writers' database."""
    members = {"MultiAZ": True, "DBName": "shop"}
    return lambda service: MysqlFamilyMultiAZ(service, engine, engine.create(service, "m1", **members))


@pytest.fixture(params=[*newest_of(MARIADB), *newest_of(MYSQL)], ids=lambda one: one.dialect.engine)
def make(request: pytest.FixtureRequest) -> Callable[[Service], MysqlFamilyMultiAZ]:
    """`maker` of each engine."""
    return maker(request.param)


def rows_after_cut(service: PowerlessService, pair: MysqlFamilyMultiAZ, write_s: float) -> tuple[list[Row], list[Row]]:
    """A power cut under load, and a change of roles some time after it: what is there before that, and what then.

    The standby goes through the same cut. It forces little to its disk, and the kernel happens to have written its
    binary log through just before.
    """
    binary_logs = pair.volume(pair.await_in_sync().standby) / "data"
    writers = cut_under_load(
        service, pair, write_s=write_s, written_back=lambda: [max(binary_logs.glob("mysql-bin-changelog.0*"))]
    )
    service.cli("up", "--detach")
    present = pair.rows()
    verdict = judge(writers.operations, writers.read, present)
    print(f"F10, {pair.name}: {verdict}")
    assert verdict.clean, str(verdict)
    before = pair.await_in_sync()
    service.await_status(pair.identifier, "available")
    service.client("rds").reboot_db_instance(DBInstanceIdentifier=pair.identifier, ForceFailover=True)
    after = pair.await_epoch(before.epoch + 1)
    assert after.primary == before.standby
    return present, pair.rows()


def test_power_cut(make: Callable[[Service], MysqlFamilyMultiAZ], full: bool) -> None:
    """F10."""
    seed = secrets.randbits(30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with powerless(make) as (service, pair):
        for _ in range(10 if full else 1):
            present, then = rows_after_cut(service, pair, chance.uniform(0.0, BETWEEN_CUTS_S) if full else 0.0)
            assert sorted(then) == sorted(present), "the two nodes did not hold the same"
            pair.await_in_sync()
            assert [pair.damage(node_id) for node_id in pair.node_ids] == [[], []]
            service.await_status(pair.identifier, "available")
            pair.make_table()


@pytest.mark.parametrize("engine", newest_of(MYSQL), ids=lambda one: one.dialect.engine)
def test_control_a_standby_that_goes_on_after_a_power_cut_lacks_rows(engine: EngineUnderTest, full: bool) -> None:
    """MySQL believes its binary log, which was further than its tables."""
    if not full:
        pytest.skip("in `make faults` only")
    with powerless(maker(engine), "torn_standby_believed") as (service, pair):
        present, then = rows_after_cut(service, pair, 2.0)
        print(f"a torn standby, {pair.name}: {len(set(present) - set(then))} of {len(present)} rows are missing")
        assert set(present) - set(then)


def test_control_what_is_on_no_disk_is_lost_in_a_power_cut(
    make: Callable[[Service], MysqlFamilyMultiAZ], full: bool
) -> None:
    if not full:
        pytest.skip("in `make faults` only")
    with powerless(make, "forced_to_no_disk") as (service, pair):
        assert loses_commits(service, pair)


def test_disk_full_below_the_primary(make: Callable[[Service], MysqlFamilyMultiAZ]) -> None:
    """F11: it can write no commit any more, and waits for room. Its standby has some, and takes over."""
    with Service() as service, writing_with_little_room(service, make) as (pair, writers, before, ballast):
        filled_at = time.monotonic()
        fill(ballast)
        after = pair.await_epoch(before.epoch + 1)
        assert after.primary == before.standby
        eventually(lambda: writers.acknowledged_since(time.monotonic() - 0.5))
        assert service.describe(pair.identifier)["DBInstanceStatus"] == "available"
        ballast.unlink()
        pair.await_in_sync()
        writers.stop()
        verdict = judge(writers.operations, writers.read, pair.rows())
        print(f"F11, {pair.name}: {verdict}; {describe_gaps(gaps(writers.operations, [filled_at]))}")
        assert verdict.clean, str(verdict)
        assert [pair.damage(node) for node in pair.node_ids] == [[], []]


def test_a_primary_that_lacks_room_for_commits_only(make: Callable[[Service], MysqlFamilyMultiAZ]) -> None:
    """F11: looks get through, for which MariaDB needs a little room, and no commit does. Its standby takes over."""
    with Service() as service, waiting_for_room(service, make) as (pair, writers, before, ballast):
        went_on_at = time.monotonic()
        after = pair.await_epoch(before.epoch + 1)
        assert after.primary == before.standby
        eventually(lambda: writers.acknowledged_since(went_on_at))
        ballast.unlink()
        pair.await_in_sync()
        writers.stop()
        verdict = judge(writers.operations, writers.read, pair.rows())
        print(f"F11, a little room, {pair.name}: {verdict}; {describe_gaps(gaps(writers.operations, [went_on_at]))}")
        assert verdict.clean, str(verdict)


def test_control_a_wait_for_room_that_is_not_seen_costs_the_standby(
    make: Callable[[Service], MysqlFamilyMultiAZ], full: bool
) -> None:
    """The one of the two that has room is held for silent, and who leads has none."""
    if not full:
        pytest.skip("in `make faults` only")
    sabotaged = SabotagedService("room_not_awaited")
    with sabotaged as service, waiting_for_room(service, make) as (pair, writers, before, _):
        went_on_at = time.monotonic()
        alone = eventually(lambda: (record := pair.record).standby != before.standby and record, timeout_s=30)
        print(f"a wait for room that is not seen, {pair.name}: {alone.reason}")
        assert (alone.epoch, alone.primary, alone.standby) == (before.epoch, before.primary, "")
        assert not writers.acknowledged_since(went_on_at)
        pair.kill(alone.primary)  # or its clients would wait for room, up to a minute


@contextmanager
def writing_with_little_room(
    service: Service, make: Callable[[Service], MysqlFamilyMultiAZ]
) -> Iterator[tuple[MysqlFamilyMultiAZ, Writers, PairRecord, Path]]:
    """A pair in sync whose primary's volume is small, its writers, the record of it, and the file to fill it with."""
    pair = make(service)
    pair.await_in_sync()
    pair.make_table()
    with cramped(pair, VOLUME_MIB) as node_id, pair.writers(writers=4) as writers:
        before = pair.await_in_sync()
        eventually(writers.acknowledged)
        yield pair, writers, before, pair.volume(node_id) / "ballast"


@contextmanager
def waiting_for_room(
    service: Service, make: Callable[[Service], MysqlFamilyMultiAZ]
) -> Iterator[tuple[MysqlFamilyMultiAZ, Writers, PairRecord, Path]]:
    """The same, whose primary has had no room while nobody looked, and has very little now: no commit comes."""
    with writing_with_little_room(service, make) as (pair, writers, before, ballast):
        with service.stopped("agent"):
            fill(ballast)
            eventually(lambda: not writers.acknowledged_since(time.monotonic() - 2))
            give_back(ballast, A_LITTLE_BYTES)
        yield pair, writers, before, ballast


def test_one_full_disk_below_both_changes_no_roles(make: Callable[[Service], MysqlFamilyMultiAZ]) -> None:
    """F11: nothing is won by letting the other one lead; commits wait for room, and go on when there is some.

    Until then nothing is held against the standby either, which has no room to acknowledge anything in.
    """
    with Service() as service:
        pair = make(service)
        pair.await_in_sync()
        pair.make_table()
        with cramped(pair, 2 * VOLUME_MIB, both=True) as node_id, pair.writers(writers=4) as writers:
            before = pair.await_in_sync()
            eventually(writers.acknowledged)
            ballast = pair.volume(node_id) / "ballast"
            fill(ballast)
            eventually(lambda: not writers.acknowledged_since(time.monotonic() - 2))
            stays(pair, before, 10.0)
            give_back(ballast, A_LITTLE_BYTES)
            stays(pair, before, 10.0)
            ballast.unlink()
            made_at = time.monotonic()
            eventually(lambda: writers.acknowledged_since(made_at), timeout_s=SEEN_AGAIN_S)
            after = pair.await_in_sync()
            assert (after.epoch, after.primary) == (before.epoch, node_id)
            writers.stop()
            verdict = judge(writers.operations, writers.read, pair.rows())
            print(f"F11 below both, {pair.name}: {verdict}; {describe_gaps(gaps(writers.operations, [made_at]))}")
            assert verdict.clean, str(verdict)


def give_back(ballast: Path, size: int) -> None:
    """So many bytes of it are free from now on."""
    os.truncate(ballast, ballast.stat().st_size - size)


def stays(pair: MysqlFamilyMultiAZ, before: PairRecord, for_s: float) -> None:
    """For so long the same node leads, and the other one has every commit."""
    ends_at = time.monotonic() + for_s
    while time.monotonic() < ends_at:
        record = pair.record
        seen = (record.epoch, record.primary, record.standby)
        assert seen == (before.epoch, before.primary, before.standby), record.reason
        time.sleep(0.1)


@pytest.mark.skipif(bool(why_not("image", False)), reason=why_not("image", False))
@pytest.mark.parametrize("multi_az", [False, True], ids=["alone", "multi-az"])
@pytest.mark.parametrize("engine", [*newest_of(MARIADB), *newest_of(MYSQL)], ids=lambda one: one.dialect.engine)
def test_full_storage_is_a_status_and_more_of_it_lets_writes_go_on(engine: EngineUnderTest, multi_az: bool) -> None:
    """F11 of an instance whose volume, and its standby's, grows while it waits for room."""
    with Service(volumes="image") as service:
        wanted: dict[str, Any] = {"StorageType": "standard", "AllocatedStorage": 5, "DBName": "shop"}
        engine.create(service, "full", MultiAZ=multi_az, **wanted)
        engine.create(service, "roomy", **wanted)
        full, roomy = Shop(service, engine, "full"), Shop(service, engine, "roomy")
        for shop in (full, roomy):
            shop.run("CREATE TABLE kept (a int PRIMARY KEY)", "CREATE TABLE wide (a int PRIMARY KEY, b longtext)")
        nodes = [str(node["node"]) for node in service.nodes() if node["instance"] == "full"]
        assert len(nodes) == 1 + multi_az
        for node in nodes:
            leave(service.home / "agent" / "nodes" / node / "volume", LEFT_MIB * (1 << 20))
        service.kill("agent")  # it looks at once when it comes up
        acknowledged: list[int] = []
        writing = threading.Thread(target=write_until_it_ends, args=(full, acknowledged), daemon=True)
        writing.start()
        service.await_status("full", "storage-full")
        eventually(lambda: stands_still(acknowledged))
        roomy.insert(1)
        service.client("rds").modify_db_instance(DBInstanceIdentifier="full", AllocatedStorage=7, ApplyImmediately=True)
        grown_at = time.monotonic()
        eventually(lambda: answers(full), timeout_s=SEEN_AGAIN_S if DRIVERS["image"].grows_open else STARTED_AGAIN_S)
        print(f"F11, {engine.dialect.engine}: writes went on {time.monotonic() - grown_at:.1f} s after the order")
        service.await_status("full", "available")
        assert len(full.numbers()) > len(acknowledged) > 0 and not set(acknowledged) - set(full.numbers())
        checked = full.run("CHECK TABLE kept, wide EXTENDED")
        assert {row[3] for row in checked if row[2] == "status"} == {"OK"}, checked


@pytest.mark.skipif(bool(why_not("image", False)), reason=why_not("image", False))
@pytest.mark.parametrize("engine", [*newest_of(MARIADB), *newest_of(MYSQL)], ids=lambda one: one.dialect.engine)
def test_a_former_primary_without_room_for_a_second_copy_follows_again(engine: EngineUnderTest) -> None:
    """Its old data and the copy that replaces it do not fit at once; the old data is of no use to anybody any more."""
    with Service(volumes="image") as service:
        small: dict[str, Any] = {"StorageType": "standard", "AllocatedStorage": 5}
        members = {"MultiAZ": True, "DBName": "shop", **small}
        pair = MysqlFamilyMultiAZ(service, engine, engine.create(service, "m1", **members))
        before = pair.await_in_sync()
        shop = Shop(service, engine, "m1")
        shop.run(
            "CREATE TABLE wide (a int PRIMARY KEY, b longtext)",
            *(f"INSERT INTO wide VALUES ({row}, REPEAT(SHA2(UUID(), 256), 16384))" for row in range(WIDE_ROWS)),
        )
        leave(pair.volume(before.primary), WIDE_LEFT_MIB << 20)
        service.await_status("m1", "available")
        service.client("rds").reboot_db_instance(DBInstanceIdentifier="m1", ForceFailover=True)
        pair.await_epoch(before.epoch + 1)
        after = pair.await_in_sync()
        assert (after.primary, after.standby) == (before.standby, before.primary)
        assert shop.run("SELECT COUNT(*) FROM wide") == [(WIDE_ROWS,)]


def leave(volume: Path, size: int) -> None:
    """So many bytes of the volume are free from now on."""
    free = os.statvfs(volume)
    ballast = free.f_bavail * free.f_frsize - size
    subprocess.run(["fallocate", "-l", str(ballast), str(volume / "ballast")], check=True, timeout=30)


def write_until_it_ends(shop: Shop, acknowledged: list[int]) -> None:
    """Half a megabyte and a number at a time, until there is an error or nobody answers."""
    with suppress(*ClientError):
        with shop.engine.connect(shop.service, shop.service.describe("full"), database="shop", read_timeout=10) as own:
            while True:
                number = len(acknowledged)
                own.rows(f"INSERT INTO wide VALUES ({number}, REPEAT(SHA2(UUID(), 256), 8192))")
                own.rows(f"INSERT INTO kept VALUES ({number})")
                acknowledged.append(number)


def stands_still(acknowledged: list[int]) -> bool:
    """Nothing was written for two seconds."""
    before = len(acknowledged)
    time.sleep(2.0)
    return len(acknowledged) == before


def answers(shop: Shop) -> bool:
    """Whether it takes a write, which may have to wait for a while."""
    try:
        with shop.engine.connect(shop.service, shop.service.describe("full"), database="shop", read_timeout=5) as own:
            own.rows("INSERT INTO kept VALUES (-1) ON DUPLICATE KEY UPDATE a = a")
    except ClientError:
        return False
    return True
