"""Keys go to agents that need them, and are taken away with the KMS key; news of space is recorded once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from harness.encryption import encrypted_instance
from mainstay.control import volumes
from mainstay.control.volumes import VolumeKeeper
from mainstay.host.clock import SimulatedClock
from mainstay.host.randomness import SeededRandomness
from mainstay.host.vault import Vault
from mainstay.model.db_instance import DBInstance
from mainstay.model.errors import Transient
from mainstay.model.node import (
    MasterUser,
    Node,
    NodeEndpoint,
    NodeLimits,
    NodePhase,
    NodeRole,
    NodeSpec,
    NodeStatus,
    NodeTarget,
    ServerCertificate,
)
from mainstay.model.records import Scope
from mainstay.services.kms.making import default_policy, new_key
from mainstay.store import SqliteStore
from mainstay.workflows.node_specs import KEY_CONTEXT
from mainstay.workflows.volumes import volume_key_of, volume_of

SCOPE = Scope("123456789012", "us-east-1")
VAULT = Vault(b"k" * 32, SeededRandomness(1))
KEY = new_key(VAULT, SeededRandomness(3), SCOPE, default_policy(SCOPE.account_id), 0.0)
GIB = 1 << 30


def instance(**fields: Any) -> DBInstance:
    return encrypted_instance(VAULT, KEY, **{"dbi_resource_id": "db-1", "node_id": "node-1"} | fields)


def spec_of(one: DBInstance) -> NodeSpec:
    return NodeSpec(
        node_id="node-1", scope=SCOPE, dbi_resource_id="db-1", db_instance_identifier="one",
        availability_zone="us-east-1a", target=NodeTarget.RUNNING, engine="postgres", engine_version="17.5",
        listen_address="127.96.0.1", port=5432, generation=3, volume=volume_of(one),
        endpoint=NodeEndpoint(endpoint_id="db-1", address="127.64.0.1", port=5432, name="n", admits=()), parameters={},
        require_tls=True, master=MasterUser("chief", "v"), database="",
        certificate=ServerCertificate("c", VAULT.seal("k", KEY_CONTEXT + "node-1"), "ca"),
        limits=NodeLimits(memory_bytes=1, vcpus=1),
    )  # fmt: skip


class World:
    """A store, and agents that can be told things."""

    def __init__(self, one: DBInstance) -> None:
        self.store, self.clock = SqliteStore(":memory:"), SimulatedClock()
        self.seen = NodeStatus(
            node_id="node-1", dbi_resource_id="db-1", db_instance_identifier="one", role=NodeRole.PRIMARY,
            availability_zone="us-east-1a", phase=NodePhase.RUNNING, generation=3,
        )  # fmt: skip
        self.calls: list[tuple[Any, ...]] = []
        self.away = 0
        with self.store.transaction() as tx:
            tx.insert(one)
            tx.insert(KEY)
            tx.insert(Node(scope=SCOPE, spec=spec_of(one)))
        self.restart()

    def restart(self) -> None:
        tools = SimpleNamespace(store=self.store, fleet=self, clock=self.clock, vault=VAULT)
        self.keeper = VolumeKeeper(cast(Any, tools))

    def look(self, **seen: Any) -> None:
        self.seen = msgspec.structs.replace(self.seen, **seen)
        self.keeper.look("db-1")

    def events(self) -> list[str]:
        return [event.event_id for event in self.store.view().events(SCOPE, 0.0, 1e12)]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.keeper.run())
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5.0):
            while not condition():
                await asyncio.sleep(0.005)

    # The fleet's side

    def last_seen(self, node_id: str) -> NodeStatus | None:
        return self.seen

    def _called(self, *call: Any) -> None:
        self.calls.append(call)
        if self.away:
            self.away -= 1
            raise Transient("the agent is away")

    async def lock(self, node_id: str) -> None:
        self._called("lock", node_id)

    async def unlock(self, node_id: str, key: str) -> None:
        self._called("unlock", node_id, key)

    async def put_node(self, spec: NodeSpec) -> None:
        self._called("put", spec)


async def test_a_locked_volume_gets_its_key_and_its_spec_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "AGAIN_S", 0.01)
    world = World(instance())
    key = volume_key_of(world.store.view(), VAULT, instance())
    assert key is not None and len(key) == 64
    world.away = 2
    async with world.running():
        world.look(locked=True, keys_missing=True)
        await world.until(lambda: len(world.calls) == 4)
    assert [call[0] for call in world.calls] == ["unlock", "unlock", "unlock", "put"]
    assert world.calls[2] == ("unlock", "node-1", key)
    put = world.calls[3][1]
    assert put.volume.data_key == key and put.generation == 3 and put.certificate.private_key_pem == "k"


async def test_a_restarted_agent_gets_keys_without_a_newer_generation() -> None:
    world = World(instance())
    async with world.running():
        world.look(keys_missing=True)
        await world.until(lambda: len(world.calls) == 1)
    assert world.calls[0][0] == "put" and world.calls[0][1].volume.data_key


async def test_a_key_that_may_not_be_used_any_more_locks_and_one_that_may_again_opens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(instance())
    usable: list[str | None] = [None]
    monkeypatch.setattr(volumes, "volume_key_of", lambda *_: usable[0])
    async with world.running():
        world.keeper.key_changed("another key")
        world.keeper.key_changed(KEY.arn)
        await world.until(lambda: len(world.calls) == 1)
        assert world.calls == [("lock", "node-1")]
        world.look(locked=True, keys_missing=True)
        await asyncio.sleep(0.05)
        assert len(world.calls) == 1, "it stays locked"
        usable[0] = "ab" * 32
        world.keeper.key_changed(KEY.arn)
        await world.until(lambda: len(world.calls) == 3)
    assert world.calls[1] == ("unlock", "node-1", "ab" * 32)


async def test_an_agent_without_keys_alone_is_no_reason_to_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(instance())
    monkeypatch.setattr(volumes, "volume_key_of", lambda *_: None)
    async with world.running():
        world.look(keys_missing=True)
        await asyncio.sleep(0.05)
    assert world.calls == []


def test_low_and_full_storage_are_told_once_each_and_again_after_there_was_room() -> None:
    world = World(instance(storage_encrypted=False))
    world.look(size_bytes=20 * GIB, usage_bytes=10 * GIB, free_bytes=10 * GIB)
    assert world.events() == []
    world.look(free_bytes=1 * GIB)
    world.restart()
    world.look(free_bytes=1 * GIB)
    assert world.events() == ["RDS-EVENT-0089"]
    world.look(free_bytes=0, storage_full=True)
    world.look(free_bytes=1 * GIB, storage_full=False)
    world.look(free_bytes=0, storage_full=True)
    assert world.events() == ["RDS-EVENT-0089", "RDS-EVENT-0007"]
    world.look(free_bytes=10 * GIB, storage_full=False)
    world.look(free_bytes=0, storage_full=True)
    assert sorted(world.events()) == sorted(["RDS-EVENT-0089", "RDS-EVENT-0007"] * 2)


def test_nothing_is_told_of_plain_directories_or_of_what_is_being_made() -> None:
    for one in (instance(volume_driver="", storage_encrypted=False), instance(change="creating")):
        world = World(one)
        world.look(size_bytes=20 * GIB, usage_bytes=20 * GIB, free_bytes=0, storage_full=True)
        assert world.events() == []
    World(instance()).keeper.look("db-unknown")
