"""What workflows do about a KMS key that is not enabled: what must wait for it waits, what needs none goes on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from harness.encryption import add_key, encrypted_instance, set_state
from mainstay.engines.postgresql.rules import PostgresqlRules
from mainstay.engines.registry import Engines
from mainstay.host.clock import SimulatedClock
from mainstay.host.randomness import SeededRandomness
from mainstay.host.vault import Vault
from mainstay.model.db_instance import DBInstance
from mainstay.model.db_snapshot import AVAILABLE, MANUAL, BackupRepository, DBSnapshot
from mainstay.model.errors import ApiError, Permanent, Transient
from mainstay.model.kms import KeyState
from mainstay.model.records import Scope
from mainstay.model.repository_job import JobKind, RepositoryJob
from mainstay.store import Job, SqliteStore
from mainstay.workflows import lose_key as lose_key_module
from mainstay.workflows.engine import Finish, Next, Sleep, Work, new_job
from mainstay.workflows.lose_key import LOSE_KEY, RECOVERABLE_S, lose_key
from mainstay.workflows.reclaim_repository import LOCKED_AGAIN_S, RECLAIM
from mainstay.workflows.repositories import Makings, facts_of, new_repository, open_repository

SCOPE = Scope("123456789012", "us-east-1")
VAULT = Vault(b"k" * 32, SeededRandomness(1))
PLACEHOLDER = "00" * 32


class World:
    """An encrypted instance with a repository, and a fleet that says what the test says."""

    def __init__(self) -> None:
        self.store, self.clock = SqliteStore(":memory:"), SimulatedClock()
        self.key = add_key(self.store, VAULT, SCOPE, 1)
        self.jobs: list[RepositoryJob] = []
        self.calls: list[str] = []
        self.refusal: Exception | None = None
        self.instance = encrypted_instance(VAULT, self.key, "one", backup_retention_period_days=1)
        with self.store.transaction() as tx:
            tx.insert(self.instance)
            makings = Makings(VAULT, SeededRandomness(3), 0.0)
            self.repository = new_repository(tx, makings, SCOPE, "db-ONE", "postgres", self.key.arn)

    def work(self, program: Any, subject: str, step: str = "", frame: dict[str, Any] | None = None) -> Work:
        job: Job = new_job(program, subject, SCOPE, self.clock.wall(), frame)
        job = msgspec.structs.replace(job, step=step or job.step)
        engines = Engines(cast(Any, None), {"postgres": PostgresqlRules(lambda _build: {})})
        tools = SimpleNamespace(store=self.store, clock=self.clock, vault=VAULT, fleet=self, engines=engines)
        return Work(job, cast(Any, tools))

    def snapshot(self) -> None:
        with self.store.transaction() as tx:
            tx.insert(DBSnapshot(scope=SCOPE, db_snapshot_identifier="kept", snapshot_type=MANUAL, status=AVAILABLE,
                                 facts=facts_of(self.instance), repository_id=self.repository.repository_id,
                                 backup_id="b1", requested_at=0.0))  # fmt: skip

    # The fleet's side

    def observe(self, node_id: str) -> object:
        return object()

    async def lock(self, node_id: str) -> None:
        self.calls.append(f"lock {node_id}")
        if self.refusal is not None:
            raise self.refusal

    async def put_node(self, spec: Any) -> None:
        self.calls.append(f"put {spec.node_id}")

    async def start_job(self, job: RepositoryJob) -> None:
        self.jobs.append(job)


async def test_a_repository_is_cleared_only_while_its_key_is_enabled() -> None:
    world = World()
    world.snapshot()
    work = world.work(RECLAIM, world.repository.subject)
    set_state(world.store, world.key, KeyState.DISABLED)
    assert await RECLAIM.steps["look"].run(work) == Sleep(LOCKED_AGAIN_S)
    frame = {"all": False, "number": 1, "kept_backups": ["b1"], "kept_log_from": ""}
    with pytest.raises(Transient, match="not enabled"):
        await RECLAIM.steps["order"].run(world.work(RECLAIM, world.repository.subject, "order", frame))
    assert world.jobs == []
    set_state(world.store, world.key, KeyState.ENABLED)
    following = await RECLAIM.steps["look"].run(work)
    assert isinstance(following, Next) and following.step == "order"
    await RECLAIM.steps["order"].run(world.work(RECLAIM, world.repository.subject, "order", frame))
    opened = open_repository(world.store.view(), VAULT, world.repository)
    assert [(job.kind, job.repository) for job in world.jobs] == [(JobKind.EXPIRE, opened)]


async def test_a_repository_is_removed_also_when_its_key_is_lost() -> None:
    world = World()
    with world.store.transaction() as tx:
        tx.delete(world.key)
    following = await RECLAIM.steps["look"].run(world.work(RECLAIM, world.repository.subject))
    assert isinstance(following, Next) and following.step == "order"
    frame = {"all": True, "number": 1, "kept_backups": [], "kept_log_from": ""}
    await RECLAIM.steps["order"].run(world.work(RECLAIM, world.repository.subject, "order", frame))
    assert [(job.kind, job.repository.data_key) for job in world.jobs] == [(JobKind.DESTROY, PLACEHOLDER)]


def test_nothing_new_comes_under_a_key_that_is_not_enabled() -> None:
    world = World()
    set_state(world.store, world.key, KeyState.DISABLED)
    with pytest.raises(ApiError, match="is disabled") as refused, world.store.transaction() as tx:
        new_repository(tx, Makings(VAULT, SeededRandomness(4), 0.0), SCOPE, "db-ONE", "postgres", world.key.arn)
    assert refused.value.shape == "KMSKeyNotAccessibleFault"
    assert len(world.store.view().scan(BackupRepository)) == 1
    with pytest.raises(Permanent, match="is disabled"):
        open_repository(world.store.view(), VAULT, world.repository)


async def test_a_node_that_cannot_be_locked_now_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    specs = (SimpleNamespace(node_id="leader"), SimpleNamespace(node_id="standby"))
    monkeypatch.setattr(lose_key_module, "refresh_nodes", lambda *_: specs)
    monkeypatch.setattr(lose_key_module, "with_private_key", lambda spec, _tools: spec)
    world = World()
    with world.store.transaction() as tx:
        lose_key(tx, world.clock, world.instance)
    world.refusal = Permanent("fscrypt says no")
    work = world.work(LOSE_KEY, "db:db-ONE")
    with pytest.raises(Transient, match="fscrypt says no"):
        await LOSE_KEY.steps["lock"].run(work)
    assert world.calls == ["lock standby"], "its standby must not take over first"
    world.refusal, world.calls = None, []
    following = await LOSE_KEY.steps["lock"].run(work)
    assert isinstance(following, Next) and following.step == "await_time"
    assert world.calls == ["lock standby", "lock leader", "put leader", "put standby"]


async def test_seven_days_are_seven_days() -> None:
    world = World()
    with world.store.transaction() as tx:
        lose_key(tx, world.clock, world.instance)
    work = world.work(LOSE_KEY, "db:db-ONE", "await_time")
    waiting = await LOSE_KEY.steps["await_time"].run(work)
    assert isinstance(waiting, Sleep) and waiting.seconds == RECOVERABLE_S
    world.clock.advance(RECOVERABLE_S - 1.0)
    assert isinstance(await LOSE_KEY.steps["await_time"].run(work), Sleep)
    world.clock.advance(1.0)
    ended = await LOSE_KEY.steps["await_time"].run(work)
    assert isinstance(ended, Finish)
    with world.store.transaction() as tx:
        ended.record(tx)
    (lost,) = world.store.view().scan(DBInstance)
    assert lost.key_lost_for_good
    texts = [event.message for event in world.store.view().events(SCOPE, 0.0, 1e12)]
    assert len(texts) == 2 and any("only be restored from a backup" in text for text in texts)
