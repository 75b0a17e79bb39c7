"""What a KMS key protects is lost when the key is not enabled any more, once, whoever was away when it happened."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from harness.encryption import add_key, encrypted_instance, set_state
from mainstay.control import encryption_keys
from mainstay.control.encryption_keys import KeyWatcher
from mainstay.host.clock import SimulatedClock
from mainstay.host.randomness import SeededRandomness
from mainstay.host.vault import Vault
from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import Transient
from mainstay.model.kms import KeyState
from mainstay.model.records import Scope
from mainstay.store import SqliteStore

SCOPE = Scope("123456789012", "us-east-1")
VAULT = Vault(b"k" * 32, SeededRandomness(1))


class World:
    """A store with two keys and an instance under each, and a watcher whose news are noted."""

    def __init__(self) -> None:
        self.store, self.clock = SqliteStore(":memory:"), SimulatedClock()
        self.told: list[str] = []
        self.woken = 0
        self.key, self.other = (add_key(self.store, VAULT, SCOPE, seed) for seed in (1, 2))
        with self.store.transaction() as tx:
            tx.insert(encrypted_instance(VAULT, self.key, "one"))
            tx.insert(encrypted_instance(VAULT, self.other, "two"))
        self.restart()

    def restart(self) -> None:
        self.watcher = KeyWatcher(self.store, self.clock, self, self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def key_changed(self, kms_key_id: str) -> None:
        """See `KeyHolder`."""
        self.told.append(kms_key_id)

    def lost(self) -> list[str]:
        return [one.key() for one in self.store.view().scan(DBInstance) if one.key_lost_at is not None]

    def events(self) -> list[str]:
        return [event.source_id for event in self.store.view().events(SCOPE, 0.0, 1e12)]

    def jobs(self) -> list[tuple[str, str]]:
        return [(job.program, job.subject) for job in self.store.view().jobs()]


@pytest.mark.parametrize("state", [KeyState.DISABLED, KeyState.PENDING_DELETION, None])
def test_what_is_under_a_key_that_is_not_enabled_is_lost_once(state: KeyState | None) -> None:
    world = World()
    world.watcher.look()
    assert (world.lost(), world.events(), world.woken) == ([], [], 0)
    if state is None:
        with world.store.transaction() as tx:
            tx.delete(world.key)
    else:
        set_state(world.store, world.key, state)
    for _ in range(3):
        world.watcher.look()
        world.restart()
    assert (world.lost(), world.events(), world.woken) == (["one"], ["one"], 1)
    assert world.jobs() == [("lose_key", "db:db-ONE")]
    set_state(world.store, world.other, KeyState.DISABLED)
    world.watcher.look()
    assert world.lost() == ["one", "two"]


async def test_a_change_is_acted_upon_at_once_and_told_to_who_holds_the_keys() -> None:
    world = World()
    task = asyncio.create_task(world.watcher.run())
    await asyncio.sleep(0.01)
    set_state(world.store, world.key, KeyState.DISABLED)
    assert world.lost() == []
    world.watcher.key_state_changed(SCOPE, world.key.arn)
    await asyncio.sleep(0.01)
    assert (world.lost(), world.told) == (["one"], [world.key.arn])
    set_state(world.store, world.key, KeyState.ENABLED)
    world.watcher.key_state_changed(SCOPE, world.key.arn)
    await asyncio.sleep(0.01)
    assert (world.lost(), world.told) == (["one"], [world.key.arn] * 2), "only StartDBInstance brings it back"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_cannot_be_recorded_now_is_recorded_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption_keys, "RETRY_S", 0.01)
    world = World()
    transaction, failures = world.store.transaction, [1, 2]

    @contextmanager
    def full() -> Any:
        if failures:
            failures.pop()
            raise Transient("no space left")
        with transaction() as tx:
            yield tx

    set_state(world.store, world.key, KeyState.DISABLED)
    monkeypatch.setattr(world.store, "transaction", full)
    world.watcher.key_state_changed(SCOPE, world.key.arn)
    task = asyncio.create_task(world.watcher.run())
    async with asyncio.timeout(5.0):
        while not world.lost():
            await asyncio.sleep(0.005)
    assert world.told == [world.key.arn] and world.events() == ["one"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_what_is_being_made_waits_for_its_key_and_is_not_lost() -> None:
    world = World()
    with world.store.transaction() as tx:
        one = tx.get(DBInstance, SCOPE, "one")
        assert one is not None
        tx.put(msgspec.structs.replace(one, change="creating"))
    set_state(world.store, world.key, KeyState.DISABLED)
    world.watcher.key_state_changed(SCOPE, world.key.arn)
    world.watcher.look()
    assert (world.lost(), world.told) == ([], [world.key.arn])
