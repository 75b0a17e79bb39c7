"""Positive controls of the tests of backups: each protection that is taken out must turn one of them red."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from harness.backups import Kept, flip, judge_restore
from harness.pairs import MultiAZ
from harness.sabotage import SabotagedService
from harness.service import eventually
from harness.writers import TABLE, Writers

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def _only_in_long_runs(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--faults-full"):
        pytest.skip("in `make faults` only")


@contextmanager
def sabotaged(name: str) -> Iterator[tuple[Kept, Writers]]:
    """An instance of a service that lacks something, and what clients have written to it."""
    with SabotagedService(name) as service:
        with service.connect(service.create_instance("source", BackupRetentionPeriod=7)) as session:
            session.execute(TABLE)
        kept = Kept(service, "source")
        kept.await_window()
        with Writers(kept.connect, writers=3, readers=0, pause_s=0.005) as writers:
            eventually(lambda: writers.acknowledged() > 300)
            time.sleep(3.0)
        yield kept, writers


def test_a_promise_of_what_is_not_stored_is_not_kept() -> None:
    with sabotaged("promised_before_stored") as (kept, _writers):
        kept.restore_moments({"promised": kept.latest})
        told = kept.refusal("promised")
        print(f"promised before it was stored: {told}")
        assert "cannot reach its target" in told, told


def test_a_restore_that_goes_too_far_is_seen() -> None:
    with sabotaged("restored_too_far") as (kept, writers):
        target = kept.await_restorable(time.time()) - 2.0
        middle = max(one.ended for one in writers.operations) + time.time() - time.monotonic()
        target = min(target, round(middle - 1.5, 3))
        kept.restore_moments({"too-far": target})
        kept.await_status("too-far")
        told = judge_restore(writers.operations, kept.rows("too-far"), target)
        print(f"restored too far: {told}")
        assert "begun after and there" in told, told


def test_damage_that_is_taken_for_the_end_is_not_named() -> None:
    """PostgreSQL itself then refuses to open a database that has not reached its target: two protections."""
    with sabotaged("damage_is_absence") as (kept, _writers):
        with kept.connect() as session:
            session.execute("CREATE TABLE bulk AS SELECT repeat(md5(g::text), 30) FROM generate_series(1, 40000) g")
        after = kept.await_restorable(time.time())
        harmed = kept.whole_segments[-1]
        flip(harmed)
        kept.restore_moments({"past-it": after})
        told = kept.refusal("past-it")
        print(f"damage taken for the end: {told}")
        assert harmed.name not in told, told


def test_a_standby_that_has_written_nothing_is_no_source() -> None:
    """Its files lack what was changed before the backup began, and no log of the backup brings that."""
    with SabotagedService("standby_read_at_once") as service:
        instance = service.create_instance("source", BackupRetentionPeriod=7, MultiAZ=True)
        kept = Kept(service, "source")
        kept.await_window()
        MultiAZ(service, instance).await_in_sync()
        with kept.connect() as session:
            session.execute("CREATE TABLE bulk AS SELECT g AS id, md5(g::text) FROM generate_series(1, 100000) g")
        before = kept.checksums()
        kept.begin_snapshot("hollow")
        kept.await_snapshot("hollow")
        kept.restore_snapshots({"of-hollow": "hollow"})
        kept.await_status("of-hollow")
        try:
            found = kept.checksums("of-hollow")
        except psycopg.Error as error:
            print(f"a standby read at once: {str(error).strip()}")
        else:
            print(f"a standby read at once: {found} instead of {before}")
            assert found != before
