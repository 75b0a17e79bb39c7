"""B6: whatever there is of backups, nothing goes that something needs, and everything goes that nothing needs."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import db_instance
from mainstay.decide.restore_window import DAY_S, Gap, base_backup
from mainstay.model.db_instance import RestoreFrom
from mainstay.model.db_snapshot import (
    ACTIVE,
    AUTOMATED,
    AVAILABLE,
    CREATING,
    FAILED,
    MANUAL,
    RETAINED,
    BackupRef,
    BackupRepository,
    DBInstanceAutomatedBackup,
    DBSnapshot,
)
from mainstay.model.node import RestoreTarget
from mainstay.model.records import Scope
from mainstay.model.repository_job import BackupFacts
from mainstay.store import SqliteStore, Transaction
from mainstay.workflows.reclaim_repository import Needed, needed
from mainstay.workflows.repositories import facts_of

HERE, THERE = Scope("123456789012", "us-east-1"), Scope("123456789012", "us-west-2")
NOW = 1_800_000_000.0
AGES_S = st.integers(0, 40 * 24).map(lambda hours: hours * 3600.0)
REPOSITORY = BackupRepository(
    scope=HERE, repository_id="repo", prefix="repo/", engine="postgres", sealed_data_key="", created_at=0.0,
    dbi_resource_id="db-A",
)  # fmt: skip


def facts(backup_id: str, at: float) -> BackupFacts:
    return BackupFacts(
        backup_id=backup_id, engine_version="17.5", timeline="1", start_position=str(int(at)), stop_position="",
        started_at=at - 1, consistent_at=at,
    )  # fmt: skip


def snapshot(name: str, kind: str, backup_id: str, at: float, **fields: object) -> DBSnapshot:
    row = DBSnapshot(
        scope=HERE, db_snapshot_identifier=name, snapshot_type=kind, facts=facts_of(db_instance("a")), requested_at=at,
        repository_id="repo", backup_id=backup_id, status=AVAILABLE, backup=facts(backup_id, at),
    )  # fmt: skip
    return msgspec.structs.replace(row, **fields)


class Case(msgspec.Struct, frozen=True):
    """Ages of automated and manual backups, and which of all are used: by number, in the order of both lists."""

    automated: list[float]
    manual: list[float]
    shared: set[int]
    """Those that have a copy in the same region, which shares their data."""
    gone: set[int]
    """Of those, the ones whose own record is gone."""
    restored: dict[int, bool]
    """Those that instances are being made of now, and whether the log is replayed then."""
    copied: set[int]
    """Those that are being copied into another region."""
    days: int
    record: str
    """Of the automated backups: ACTIVE, RETAINED, or "" without any record."""
    latest_age_s: float


NUMBERS = st.sets(st.integers(0, 11), max_size=4)
CASES = st.builds(
    Case,
    st.lists(AGES_S, unique=True, max_size=8),
    st.lists(AGES_S, unique=True, max_size=4),
    NUMBERS,
    NUMBERS,
    st.dictionaries(st.integers(0, 11), st.booleans(), max_size=3),
    NUMBERS,
    st.integers(1, 35),
    st.sampled_from([ACTIVE, RETAINED, ""]),
    AGES_S,
)


def record(tx: Transaction, case: Case) -> list[BackupFacts]:
    """Everything as the services record it; all backups that there are."""
    tx.insert(REPOSITORY)
    made = [(AUTOMATED, age) for age in case.automated] + [(MANUAL, age) for age in case.manual]
    backups = []
    for number, (kind, age) in enumerate(made):
        row = snapshot(f"s{number}", kind, f"b{number}", NOW - age)
        backups.append(facts(row.backup_id, NOW - age))
        if number in case.shared:
            tx.insert(msgspec.structs.replace(row, db_snapshot_identifier=f"copy{number}", snapshot_type=MANUAL))
        if not (number in case.shared and number in case.gone):
            tx.insert(row)
        if number in case.copied:
            copy_of = BackupRef(scope=HERE, repository_id="repo", backup_id=row.backup_id)
            there = msgspec.structs.replace(row, scope=THERE, repository_id="other", status=CREATING, copy_of=copy_of)
            tx.insert(there)
        if number in case.restored:
            target = RestoreTarget(at=NOW) if case.restored[number] else RestoreTarget()
            source = RestoreFrom(
                repository_scope=HERE, repository_id="repo", backup_id=row.backup_id, target=target, described=""
            )
            tx.insert(db_instance(f"r{number}", restore_from=source))
    tx.insert(snapshot("failed", MANUAL, "bf", NOW, status=FAILED))
    if case.record:
        tx.insert(
            DBInstanceAutomatedBackup(
                scope=HERE, facts=facts_of(db_instance("a")), automated_backup_id="ab", repository_id="repo",
                status=case.record, backup_retention_period_days=case.days,
                latest_restorable_at=NOW - case.latest_age_s,
            )
        )  # fmt: skip
    return backups


def judge(case: Case, backups: list[BackupFacts], wanted: Needed) -> None:
    kept = set(wanted.kept_backups)
    count = len(case.automated)
    by_others = {
        one.backup_id
        for number, one in enumerate(backups)
        if number >= count or number in case.shared or number in case.restored or number in case.copied
    }
    assert by_others <= kept, "a snapshot, a copy or a restore needs it"
    own = [one for number, one in enumerate(backups[:count]) if not (number in case.shared and number in case.gone)]
    over = case.record == "" or (case.record == RETAINED and case.latest_age_s >= case.days * DAY_S)
    period = [] if over else [NOW - hours * 3600.0 for hours in range(case.days * 24 + 1)]
    bases = {base.backup_id for at in period if (base := base_backup(own, at, Gap())) is not None}
    assert bases <= kept, "a moment of the window needs it"
    assert kept == by_others | bases, "nothing needs the others"
    if any(replays for number, replays in case.restored.items() if number < len(backups)):
        assert wanted.kept_log_from is None, "a restore under way may need any of it"
    elif over:
        assert wanted.kept_log_from == "", "the log of the snapshots is enough"
    else:
        read = {backups[number].backup_id for number in {*case.restored, *case.copied} if number < len(backups)}
        begins = min((int(one.start_position) for one in own if one.backup_id in bases | read), default=None)
        assert wanted.kept_log_from == (None if begins is None else str(begins))
    assert wanted.nothing == (over and not kept)


@settings(max_examples=300)
@given(CASES)
def test_nothing_goes_that_is_needed_and_all_goes_that_is_not(case: Case) -> None:
    store = SqliteStore(":memory:")
    try:
        with store.transaction() as tx:
            backups = record(tx, case)
        with store.read() as view:
            wanted = needed(view, REPOSITORY, NOW, int)
        assert wanted is not None
        judge(case, backups, wanted)
    finally:
        store.close()
