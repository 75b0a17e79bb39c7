"""Backups under faults (B1-B8): every backup and every moment that is promised can be restored, and is right.

Short rounds here; `--faults-full` restores more backups and moments, and kills more often.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from harness.backups import Kept, flip, judge_restore, kill_one
from harness.bank import TABLE as BANK
from harness.bank import Bank, is_balanced
from harness.pairs import MultiAZ
from harness.power import powerless_service
from harness.sabotage import SabotagedService
from harness.service import Service, eventually
from harness.writers import TABLE, Writers
from mainstay.engines.builds import Builds

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]

TOGETHER = 3
"""So many restores at once."""

STORAGE_SIZE = "160m"


@pytest.fixture(scope="module")
def chance() -> random.Random:
    """What is random in here; its seed is printed."""
    seed = secrets.randbits(30)
    print(f"seed {seed}")
    return random.Random(seed)


def prepared(service: Service, identifier: str = "source", **members: object) -> Kept:
    """An instance with the tables of the writers and the bank, as soon as it has a restore window."""
    instance = service.create_instance(identifier, BackupRetentionPeriod=7, **members)
    with service.connect(instance) as session:
        session.execute(TABLE)
        session.execute(BANK)
        session.execute("CREATE TABLE bulk AS SELECT g AS id, md5(g::text) AS value FROM generate_series(1, 20000) g")
    kept = Kept(service, identifier)
    kept.await_window()
    return kept


@pytest.fixture(scope="module")
def kept() -> Iterator[Kept]:
    with Service() as service:
        client = service.client("rds")
        family = f"postgres{service.engine_version.split('.')[0]}"
        client.create_db_parameter_group(DBParameterGroupName="stamped", DBParameterGroupFamily=family, Description="d")
        stamps = {"ParameterName": "track_commit_timestamp", "ParameterValue": "1", "ApplyMethod": "pending-reboot"}
        client.modify_db_parameter_group(DBParameterGroupName="stamped", Parameters=[stamps])
        yield prepared(service, DBParameterGroupName="stamped")


def in_groups(names: list[str]) -> Iterator[list[str]]:
    """So many as are restored at once."""
    for first in range(0, len(names), TOGETHER):
        yield names[first : first + TOGETHER]


# B1


def test_every_backup_is_what_the_database_was(kept: Kept, full: bool) -> None:
    """Compared by checksum of every table; clients write to others meanwhile."""
    sums = {}
    with Writers(kept.connect, writers=2, readers=0, pause_s=0.002), Bank(kept.connect, clients=1):
        for number in range(8 if full else 2):
            with kept.connect() as session:
                session.execute("UPDATE bulk SET value = md5(value) WHERE mod(id, 17) = %s", (number,))
                session.execute(f"CREATE TABLE t{number} AS SELECT repeat('x', g) FROM generate_series(1, 2000) g")
                session.execute(f"CREATE INDEX ON t{number} (repeat)")
            before = kept.checksums(without=("kept", "bank"))
            kept.begin_snapshot(f"s{number}")
            kept.await_snapshot(f"s{number}")
            assert kept.checksums(without=("kept", "bank")) == before
            sums[f"s{number}"] = before
    for names in in_groups(list(sums)):
        kept.restore_snapshots({f"from-{name}": name for name in names})
        for name in names:
            kept.await_status(f"from-{name}")
            assert kept.checksums(f"from-{name}", without=("kept", "bank")) == sums[name], name
            with kept.connect(f"from-{name}") as session:
                assert is_balanced(session)
            assert amcheck(kept, f"from-{name}") == ""
        if full:
            check_pages(kept, [f"from-{name}" for name in names])
        kept.drop(*(f"from-{name}" for name in names))
    print(f"B1: {len(sums)} backups restored and equal")
    assert kept.damages() == ()


def test_an_index_that_does_not_fit_its_table_is_seen(kept: Kept) -> None:
    """The control of `amcheck`: an index of what a function no longer says."""
    with kept.connect() as session:
        session.execute("CREATE FUNCTION lies(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1'")
        session.execute("CREATE TABLE lied AS SELECT g AS id FROM generate_series(1, 100) g")
        session.execute("CREATE INDEX ON lied (lies(id))")
        assert amcheck(kept, "source") == ""
        session.execute("CREATE OR REPLACE FUNCTION lies(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT -$1'")
        try:
            assert "lacks matching index tuple" in amcheck(kept, "source")
        finally:
            session.execute("DROP TABLE lied")
            session.execute("DROP FUNCTION lies")


def amcheck(kept: Kept, name: str) -> str:
    """What pg_amcheck, as the engine's own user, finds in an instance's tables and indexes; "" if all is well."""
    service, node = kept.service, kept.service.node(name)
    build = next(one for one in Builds(service.settings).installed() if one.version == service.engine_version)
    sockets = service.settings.runtime / "nodes" / str(node["node"])
    owner = sockets.stat()
    who: dict[str, Any] = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    place = ["-h", str(sockets), "-p", str(node["port"]), "-U", "rdsadmin"]
    done = subprocess.run(
        [str(build.bin_directory / "pg_amcheck"), "--all", "--install-missing", "--heapallindexed", *place],
        env=build.environment, capture_output=True, text=True, timeout=300, check=False,
        **(who if os.geteuid() == 0 else {}),
    )  # fmt: skip
    found = done.stdout + done.stderr
    assert (done.returncode == 0) == (found == ""), found
    return found


def check_pages(kept: Kept, names: list[str]) -> None:
    """Every page of the restored databases has the checksum it should have."""
    service = kept.service
    build = next(one for one in Builds(service.settings).installed() if one.version == service.engine_version)
    for name in names:
        kept.rds.stop_db_instance(DBInstanceIdentifier=name)
        eventually(lambda name=name: service.describe(name)["DBInstanceStatus"] == "stopped")
        data = service.node(name)["data_directory"]
        done = subprocess.run(
            [str(build.bin_directory / "pg_checksums"), "--check", f"--pgdata={data}"],
            env=build.environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


# B2


def boundary(kept: Kept, writers_session: int) -> tuple[float, set[tuple[int, int]]]:
    """The moment of a commit, to the microsecond, with another commit after it; what of the two must be there."""
    with kept.connect() as session:
        session.execute("INSERT INTO kept VALUES (%s, 1)", (writers_session,))
        session.execute("INSERT INTO kept VALUES (%s, 2)", (writers_session,))
        row = session.execute(
            "SELECT extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 FROM kept"
            " WHERE session = %s AND sequence = 1",
            (writers_session,),
        ).fetchone()
        assert row is not None
        return float(row[0]), {(writers_session, 1)}


def test_every_moment_of_the_window_is_exact(kept: Kept, full: bool, chance: random.Random) -> None:
    with kept.connect() as session:
        session.execute("TRUNCATE kept")
    with Writers(kept.connect, writers=4, readers=1, pause_s=0.002) as writers, Bank(kept.connect) as bank:
        begun_at = time.time()
        eventually(lambda: writers.acknowledged() > 100)
        time.sleep(20 if full else 4)
        ended_at = time.time()
    at, half = boundary(kept, 9999)
    kept.await_restorable(time.time())
    latest = float(kept.latest.timestamp())
    targets: dict[str, float] = {"first": kept.earliest.timestamp(), "boundary": at, "last": latest}
    for number in range(20 if full else 1):
        targets[f"r{number}"] = round(chance.uniform(begun_at, ended_at), 3)
    if full:
        targets |= {f"second-{number}": float(int(begun_at) + number) for number in range(1, 6)}
    for names in in_groups(list(targets)):
        kept.restore_moments({name: targets[name] for name in names})
        for name in names:
            kept.await_status(name)
            if name == "first":  # as it was when the first backup was taken: before there were tables
                assert kept.checksums(name) == {}
                continue
            present = kept.rows(name)
            own = {row for row in present if row[0] == 9999}
            assert own == (half if name == "boundary" else half | {(9999, 2)} if name == "last" else set()), name
            judged = [row for row in present if row[0] != 9999]
            assert judge_restore(writers.operations, judged, targets[name]) == "", name
            with kept.connect(name) as session:
                assert is_balanced(session), name
        kept.drop(*names)
    print(f"B2: {len(targets)} moments exact; {writers.acknowledged()} commits, {bank.moved} transfers")


def test_what_is_after_the_latest_restorable_time_is_refused(kept: Kept) -> None:
    """And the promise stands still when nothing is shipped any more, however much is written."""
    with kept.service.stopped("agent"):
        time.sleep(1.0)
        latest = kept.latest
        with pytest.raises(ClientError) as refused:
            kept.restore_moments({"beyond": latest.timestamp() + 1.0})
        assert refused.value.response["Error"]["Code"] == "InvalidParameterValue"
        with kept.connect() as session:
            session.execute("INSERT INTO kept VALUES (7777, 1)")
        time.sleep(3.0)
        assert kept.latest == latest, "nothing of the log was stored meanwhile"
    kept.await_restorable(time.time())


# B4 and B8


def grow(kept: Kept, segments: int) -> None:
    """So many segments of the log more have ended, and are stored whole."""
    begun = len(kept.whole_segments)
    with kept.connect() as session:
        while len(kept.whole_segments) < begun + segments:
            session.execute("UPDATE bulk SET value = md5(value)")
            time.sleep(0.05)


def refusal_past(kept: Kept, harmed: Path, harm: Callable[[Path], object], identifier: str) -> str:
    """Restores past a segment of the log that is harmed; what is told of that."""
    stored = harmed.read_bytes()
    after = kept.await_restorable(time.time())
    harm(harmed)
    try:
        kept.restore_moments({identifier: after})
        told = kept.refusal(identifier)
    finally:
        harmed.write_bytes(stored)
    kept.drop(identifier)
    return told


def test_a_missing_segment_of_the_log_is_named_and_what_is_before_it_is_not_harmed(kept: Kept, full: bool) -> None:
    grow(kept, 1)
    before = kept.await_restorable(time.time())
    sums = kept.checksums()
    time.sleep(max(0.0, before + 0.1 - time.time()))
    grow(kept, 3)
    harmed = kept.whole_segments[-2]
    kept.restore_moments({"before-it": before})
    told = refusal_past(kept, harmed, Path.unlink, "past-missing")
    print(f"B4: {told}")
    assert f"no segment {harmed.name.split('.')[1]}" in told, told
    kept.await_status("before-it")
    assert kept.checksums("before-it") == sums
    kept.drop("before-it")
    if full:
        told = refusal_past(kept, harmed, flip, "past-damaged")
        print(f"B4: {told}")
        assert harmed.name in told and "no segment" not in told, "damage is told as damage"


def test_foreign_and_replayed_backups_are_refused(kept: Kept) -> None:
    """What lies in the place of a backup is that very backup, or nothing is restored."""
    made = []
    for name in ("older", "newer"):
        with kept.connect() as session:
            session.execute("UPDATE bulk SET value = md5(value) WHERE mod(id, 7) = 0")
        before = set((kept.directory / "manifests").iterdir())
        kept.begin_snapshot(name)
        kept.await_snapshot(name)
        made += sorted(set((kept.directory / "manifests").iterdir()) - before)[-1:]
    older, newer = made
    stored = newer.read_bytes()
    newer.write_bytes(older.read_bytes())
    kept.restore_snapshots({"replayed": "newer"})
    assert newer.name in (told := kept.refusal("replayed")), told
    newer.write_bytes(stored)
    other = prepared(kept.service, "other")
    aside = kept.directory.with_name("aside")
    kept.directory.rename(aside)
    shutil.copytree(other.directory, kept.directory)
    try:
        theirs = max((kept.directory / "manifests").iterdir())
        theirs.rename(theirs.with_name(newer.name))
        kept.restore_snapshots({"foreign": "newer"})
        assert newer.name in (told := kept.refusal("foreign")), told
    finally:
        shutil.rmtree(kept.directory)
        aside.rename(kept.directory)
    kept.drop("replayed", "foreign", "other")
    assert kept.damages() == ()


# B5


def kill_any(kept: Kept, chance: random.Random) -> str:
    """kill -9 of the agent, of the control plane or of what moves the backup now; which."""
    who = chance.choice(["agent", "control", "worker"])
    kill_one(kept.service, who)
    return who


def test_kills_delay_backups_and_restores_and_harm_none(kept: Kept, full: bool, chance: random.Random) -> None:
    """During backup, shipping, expiry and restore. At the end the log has no hole and nothing is left over."""
    with kept.connect() as session:
        session.execute("TRUNCATE kept")
    killed = []
    with Writers(kept.connect, writers=2, readers=0, pause_s=0.005) as writers:
        for number in range(15 if full else 2):
            with kept.connect() as session:
                session.execute("UPDATE bulk SET value = md5(value)")
            name = f"disturbed{number}"
            kept.begin_snapshot(name)
            time.sleep(chance.uniform(0.0, 1.2))
            killed.append(kill_any(kept, chance))
            kept.await_snapshot(name)
            kept.restore_snapshots({f"from-{name}": name})
            time.sleep(chance.uniform(0.0, 1.5))
            killed.append(kill_any(kept, chance))
            kept.await_status(f"from-{name}")
            kept.drop(f"from-{name}")
            kept.rds.delete_db_snapshot(DBSnapshotIdentifier=name)
            time.sleep(chance.uniform(0.0, 0.5))
            killed.append(kill_any(kept, chance))
            kept.await_status("source")
    target = kept.await_restorable(time.time())
    kept.restore_moments({"after-kills": target})
    kept.await_status("after-kills")
    assert judge_restore(writers.operations, kept.rows("after-kills"), target) == ""
    kept.drop("after-kills")
    print(f"B5: {len(killed)} kills ({', '.join(sorted(set(killed)))}); {writers.acknowledged()} commits")
    assert kept.damages() == ()
    eventually(lambda: kept.litter() == set(), timeout_s=kept.timeout_s)


def test_an_engine_that_is_faster_than_its_agent_is_restored() -> None:
    """It asks for its log before anybody serves it; then agents come and go while it recovers, and while it ends."""
    with SabotagedService("log_served_late") as service:
        kept = prepared(service)
        grow(kept, 2)
        sums = kept.checksums()
        latest = kept.await_restorable(time.time())
        kept.restore_moments({"late": latest})
        recovering = eventually(lambda: _recovering(service, "late"))
        for _ in range(3):
            service.kill("agent")
            time.sleep(1.0)
            assert recovering.exists(), "3 s after an agent's start the engine is served"
        kept.await_status("late")
        assert not recovering.exists()
        assert kept.checksums("late") == sums


def _recovering(service: Service, identifier: str) -> Path | None:
    """What tells that an engine has not come to its target; None before it has been started."""
    try:
        node = service.node(identifier)
    except (KeyError, StopIteration, AssertionError):
        return None
    sign = Path(node["data_directory"]) / "recovery.signal"
    return sign if node["pid"] and sign.exists() else None


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
def test_a_full_object_storage_stops_the_promise_and_nothing_else(full: bool) -> None:
    if not full:
        pytest.skip("in `make faults` only")
    with Service() as service:
        storage = service.home / "objects"
        storage.mkdir(mode=0o700, exist_ok=True)
        try:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={STORAGE_SIZE},mode=0700", "tmpfs", str(storage)],
                           check=True, timeout=20)  # fmt: skip
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this machine does not let us mount: {error}")
        try:
            _fill_storage(prepared(service), storage)
        finally:
            service.cli("down")
            subprocess.run(["umount", "-l", str(storage)], check=True, timeout=20)


def _fill_storage(kept: Kept, storage: Path) -> None:
    with Writers(kept.connect, writers=2, readers=0, pause_s=0.005) as writers:
        eventually(lambda: writers.acknowledged() > 50)
        ballast = storage / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"\0" * (1 << 16))
        time.sleep(3.0)
        stopped = kept.latest
        kept.begin_snapshot("late")
        mark = time.monotonic()
        time.sleep(4.0)
        assert kept.latest == stopped, "what is not stored is not promised"
        assert writers.acknowledged_since(mark), "the database goes on"
        ballast.unlink()
        kept.await_snapshot("late")
    target = kept.await_restorable(time.time())
    kept.restore_moments({"healed": target})
    kept.await_status("healed")
    assert judge_restore(writers.operations, kept.rows("healed"), target) == ""
    assert kept.damages() == ()
    eventually(lambda: kept.litter() == set(), timeout_s=kept.timeout_s)
    print(f"B5, full storage: {writers.acknowledged()} commits")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
def test_a_power_cut_keeps_what_was_promised(full: bool, chance: random.Random) -> None:
    """Of the object storage, of the engine and of the records at once; while a backup was being taken, the log was
    shipped, a snapshot was being restored and another one, which shared its data, was being removed."""
    if not full:
        pytest.skip("in `make faults` only")
    with powerless_service() as service:
        kept = prepared(service)
        sums = kept.checksums(without=("kept", "bank"))
        for name in ("earlier", "doomed"):
            kept.begin_snapshot(name)
            kept.await_snapshot(name)
            with kept.connect() as session:
                session.execute("UPDATE bulk SET value = md5(value)")
        with Writers(kept.connect, writers=2, readers=0, pause_s=0.005) as writers:
            eventually(lambda: writers.acknowledged() > 200)
            kept.rds.delete_db_snapshot(DBSnapshotIdentifier="doomed")
            kept.restore_snapshots({"from-earlier": "earlier"})
            kept.begin_snapshot("cut")
            time.sleep(chance.uniform(0.1, 1.0))
            promised = kept.latest.timestamp()
            service.cut_power()
            writers.stop()
        service.cli("up", "--detach")
        kept.await_status("source")
        kept.await_snapshot("cut")
        kept.restore_moments({"promised": float(promised)})
        kept.restore_snapshots({"from-cut": "cut"})
        kept.await_status("promised")
        assert judge_restore(writers.operations, kept.rows("promised"), promised) == ""
        kept.await_status("from-earlier")
        assert kept.checksums("from-earlier", without=("kept", "bank")) == sums
        kept.await_status("from-cut")
        assert kept.damages() == ()
        eventually(lambda: kept.litter() == set(), timeout_s=kept.timeout_s)
        print(f"B5, power cut: {writers.acknowledged()} commits")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
def test_a_full_disk_delays_a_restore_and_harms_none(full: bool) -> None:
    """Of the host, below the restored instance: what was begun is removed, and it goes on when there is room."""
    if not full:
        pytest.skip("in `make faults` only")
    with powerless_service() as service:  # for its file system of its own
        kept = prepared(service)
        with kept.connect() as session:
            session.execute("UPDATE bulk SET value = md5(value)")
        kept.begin_snapshot("one")
        kept.await_snapshot("one")
        sums = kept.checksums()
        ballast = service.home / "ballast"
        size = os.statvfs(service.home).f_bavail * os.statvfs(service.home).f_frsize - (12 << 20)
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        kept.restore_snapshots({"cramped": "one"})
        log = service.home / "logs" / "agent.log"
        eventually(lambda: "cannot be restored to" in log.read_text())
        time.sleep(3.0)
        assert service.describe("cramped")["DBInstanceStatus"] == "creating"
        assert kept.checksums() == sums, "nobody else is harmed"
        ballast.unlink()
        kept.await_status("cramped")
        assert kept.checksums("cramped") == sums
        assert kept.damages() == ()


# B7


def test_no_gap_across_failovers(full: bool) -> None:
    """Moments before, between and after failovers, each on the history that was in force then."""
    with Service() as service:
        kept = prepared(service, "pair", MultiAZ=True)
        pair = MultiAZ(service, service.describe("pair"))
        moments = []
        with pair.writers(writers=3, readers=1, pause_s=0.005) as writers:
            eventually(lambda: writers.acknowledged() > 50)
            for _ in range(6 if full else 2):
                before = pair.await_in_sync()
                time.sleep(0.5)
                moments.append(time.time())
                pair.kill(before.primary)
                pair.await_epoch(before.epoch + 1)
                killed = time.monotonic()
                eventually(lambda since=killed: writers.acknowledged_since(since) > 10)
            moments.append(time.time())
            time.sleep(0.5)
        kept.await_restorable(time.time())
        targets = {f"m{number}": round(moment, 3) for number, moment in enumerate(moments)}
        for names in in_groups(list(targets)):
            kept.restore_moments({name: targets[name] for name in names})
            for name in names:
                kept.await_status(name)
                assert judge_restore(writers.operations, kept.rows(name), targets[name]) == "", name
                with kept.connect(name) as session:
                    assert is_balanced(session)
            kept.drop(*names)
        print(f"B7: {len(moments) - 1} failovers, {len(targets)} moments exact; {writers.acknowledged()} commits")
        messages = [event["Message"] for event in kept.rds.describe_events(Duration=60)["Events"]]
        assert not [message for message in messages if "gap" in message.lower()], messages
        assert kept.damages() == ()
        assert kept.earliest < datetime.fromtimestamp(moments[0], UTC), "one window over all of them"
