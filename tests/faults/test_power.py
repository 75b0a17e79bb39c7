"""Power cut below a whole Multi-AZ instance, and a disk that fills up below one of its nodes."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import suppress

import psycopg
import pytest

from harness.full_disk import cramped, fill
from harness.pairs import MultiAZ
from harness.power import PowerlessService, cut_under_load, loses_commits, powerless
from harness.service import Service, eventually
from harness.writers import Verdict, describe_gaps, gaps, judge
from mainstay.engines.builds import Builds

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root"),
]


def postgresql_pair(service: Service) -> MultiAZ:
    """A Multi-AZ instance."""
    return MultiAZ(service, service.create_instance("m1", MultiAZ=True))


def verdict_after_cut(service: PowerlessService, pair: MultiAZ, *, without_primary: bool = False) -> Verdict:
    """Power cut and return under load; `without_primary`: what leads cannot be started any more."""
    before = pair.await_in_sync()
    writers = cut_under_load(service, pair)
    data = pair.volume(before.primary) / "data"
    if without_primary:
        data.chmod(0o777)  # the engine refuses to start on data that everybody may write
    service.cli("up", "--detach")
    if without_primary:
        pair.await_epoch(before.epoch + 1)
        data.chmod(0o700)
    verdict = judge(writers.operations, writers.read, pair.rows())
    print(f"F10{' standby alone' if without_primary else ''}: {verdict}")
    return verdict


def test_power_cut(full: bool) -> None:
    with powerless(postgresql_pair) as (service, pair):
        for number in range(10 if full else 1):
            verdict = verdict_after_cut(service, pair, without_primary=number % 2 == 0)
            assert verdict.clean, str(verdict)
            pair.await_in_sync()
            pair.make_table()
        build = next(one for one in Builds(service.settings).installed() if one.version == service.engine_version)
        service.cli("down")
        for node_id in pair.node_ids:
            data = pair.volume(node_id) / "data"
            done = subprocess.run(
                [str(build.bin_directory / "pg_checksums"), "--check", f"--pgdata={data}"],
                env=build.environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr


def test_without_fsync_a_power_cut_loses_commits(full: bool) -> None:
    """The positive control: what `test_power_cut` says is worth something."""
    if not full:
        pytest.skip("in `make faults` only")
    with powerless(postgresql_pair, "fsync_off") as (service, pair):
        assert loses_commits(service, pair)


def test_disk_full_below_one_node(full: bool) -> None:
    """A primary that can write no WAL any more ends; its standby has room and takes over."""
    if not full:
        pytest.skip("in `make faults` only")
    with Service() as service:
        pair = postgresql_pair(service)
        pair.await_in_sync()
        pair.make_table()
        with cramped(pair, 300):
            _fill_below(service, pair)


def _fill_below(service: Service, pair: MultiAZ) -> None:
    before = pair.await_in_sync()
    ballast = pair.volume(before.primary) / "ballast"
    with pair.connect() as session:
        session.execute("CREATE TABLE wide AS SELECT repeat('wide', 350) AS content")
        session.execute("ALTER TABLE wide ALTER content SET STORAGE plain")
    with pair.writers(writers=4) as writers:
        eventually(writers.acknowledged)
        filled_at = time.monotonic()
        fill(ballast)
        with suppress(psycopg.Error), pair.connect(options="-c synchronous_commit=off") as session:
            for _ in range(60_000):  # every one in the room of the one before: only the WAL grows
                session.execute("UPDATE wide SET content = reverse(content)")
        after = pair.await_epoch(before.epoch + 1)
        assert after.primary == before.standby
        eventually(lambda: writers.acknowledged_since(time.monotonic() - 0.5))
        time.sleep(1.0)
        assert service.describe("m1")["DBInstanceStatus"] == "available"
        ballast.unlink()
        pair.await_in_sync()
        writers.stop()
        verdict = judge(writers.operations, writers.read, pair.rows())
        print(f"F11: {verdict}; {describe_gaps(gaps(writers.operations, [filled_at]))}")
        assert verdict.clean, str(verdict)
