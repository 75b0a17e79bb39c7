"""A Multi-AZ instance in simulated time: the real agent on two simulated database servers, clients, and every fault.

`PairWorld` lives one seed: it draws faults and changes of the specs, lets clients commit and read through the
endpoint's route meanwhile, heals everything, and demands that the pair comes to rest in sync. What clients saw is
judged at once by a `Ledger`; nothing is averaged or forgiven.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec

from harness.builds import InstalledBuilds
from mainstay.agent import node_engine
from mainstay.host.clock import SimulatedClock
from mainstay.model.errors import MainstayError, Transient
from mainstay.model.node import (
    MasterUser,
    NodeEndpoint,
    NodeLimits,
    NodePhase,
    NodeRole,
    NodeSpec,
    NodeTarget,
    Peer,
    ServerCertificate,
)
from mainstay.model.pair import PairRecord
from mainstay.model.records import Scope
from simulation.database import Gone, Server
from simulation.effects import Effects
from simulation.ledger import Ledger, Violation
from simulation.loop import Killed, Lifetime, simulate, unowned
from simulation.twins import DATA_MARKER, SETTINGS_FILE, Engine, Host
from simulation.world import SimulatedAgent

INSTANCE = "db-PAIR"
CONVERGES_S = 150.0
CLIENTS = 3
ANSWER_TIMEOUT_S = 10.0


def _spec(node_id: str, number: int, role: NodeRole) -> NodeSpec:
    return NodeSpec(
        node_id=node_id, scope=Scope("123456789012", "us-east-1"), dbi_resource_id=INSTANCE,
        db_instance_identifier="db1", availability_zone="us-east-1a", role=role, generation=1,
        target=NodeTarget.RUNNING, engine="postgres", engine_version="17.5", listen_address=f"127.0.0.{number}",
        port=5432, parameters={"work_mem": "1"}, require_tls=False, master=MasterUser("chief", "verifier"),
        database="main", certificate=ServerCertificate("c", "k", "a"),
        limits=NodeLimits(memory_bytes=1 << 30, vcpus=2),
        endpoint=NodeEndpoint(endpoint_id=INSTANCE, address="127.1.0.1", port=5432, name="db1", admits=("0.0.0.0/0",)),
    )  # fmt: skip


class Client:
    """One client connection through the endpoint, as the endpoint would carry it."""

    def __init__(self, world: PairWorld, server: Server, epoch: int, target: str) -> None:
        self._world, self.server, self._epoch, self._target = world, server, epoch, target
        self.seen = 0

    @property
    def connected(self) -> bool:
        """Whether the endpoint has not cut it (`endpoint.routing.survives`)."""
        route = self._world.host.routes.get(INSTANCE)
        if route is None or self._epoch < route[3] or self.server.ended or self.server.shutting_down:
            return False
        return route[2] is None or route[2] == self._target


class PairWorld:
    """See the module. `sabotage` changes the real code for the length of the run."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.seed = seed
        self.draw = random.Random(seed)
        self.clock = SimulatedClock()
        self.effects = Effects()
        self.host = Host(directory, self.clock, self.effects)
        self.host.weather.__init__(seed)  # type: ignore[misc]
        self.host.on_lead = self._leads
        self.builds = InstalledBuilds("17.5", "17.6")
        self.control = None
        self.agent: SimulatedAgent | None = None
        self.specs: dict[str, NodeSpec] = {}
        self.leader = "node-1"
        self.history: list[str] = []
        self.records: list[PairRecord] = []
        self.ledger = Ledger(self)
        self.disk_full = False
        self.stray_kill = 0.0
        self.bug: Exception | None = None
        self._numbers = 0
        self._nodes = 0
        self._hands_off = False
        self._delivered: dict[str, int] = {}

    # What judges

    def note(self, what: str) -> None:
        """One line of what happened, for whoever has to understand a failing seed."""
        self.history.append(f"{self.clock.monotonic():9.3f} {what}")

    def record(self) -> PairRecord | None:
        """The record as it is on disk."""
        return self.records[-1] if self.records else None

    def _leads(self, engine: Engine) -> None:
        self.note(f"{engine.server.node_id} leads, timeline {engine.server.disk.timeline}")
        self.ledger.came_up(engine)

    # The agent

    def _decide(self, _number: int, moment: str, owner: Lifetime, name: str) -> None:
        if self.disk_full and name in ("leases.replace", "journal.write_in_effect") and moment == "before":
            raise Transient("no space left") if name == "leases.replace" else OSError(28, "no space left")
        if name == "leases.replace" and moment == "after":
            self._record_changed()
        if self.stray_kill and self.draw.random() < self.stray_kill:
            self.stray_kill = 0.0
            self.note(f"agent dies {moment} {name}")
            owner.kill()
            raise Killed(owner.name)

    def _record_changed(self) -> None:
        path = self.directory / "leases" / f"{INSTANCE}.json"
        record = msgspec.json.decode(path.read_bytes(), type=PairRecord)
        if self.records and self.records[-1] == record:
            return
        before = self.records[-1] if self.records else None
        self.records.append(record)
        state = f"IN_SYNC({record.standby})" if record.standby else "ALONE"
        self.note(f"record: epoch {record.epoch}, {record.primary} {state}: {record.reason}")
        self.ledger.record_changed(before, record)

    async def _supervise(self) -> None:
        while True:
            if self.agent is None or not self.agent.life.alive:
                await asyncio.sleep(self.draw.uniform(0.2, 2.0))
                self.agent = SimulatedAgent(self)  # type: ignore[arg-type]
                self._delivered = {}
                self.agent.life.run(self.agent.work())
            try:
                await self._deliver()
            except Exception as error:
                self.bug = error
                return
            await asyncio.sleep(0.05)

    async def _deliver(self) -> None:
        agent = self.agent
        assert agent is not None
        for node_id, spec in list(self.specs.items()):
            if self._delivered.get(node_id, 0) >= spec.generation or not agent.life.alive:
                continue
            task = agent.life.run(agent.put_node(msgspec.to_builtins(spec)))
            await asyncio.wait({task})
            if not agent.life.alive or task.cancelled():
                continue
            error = task.exception()
            if error is not None and not isinstance(error, MainstayError | OSError | Killed):
                raise error  # a bug, not a fault
            if error is None:
                self._delivered[node_id] = spec.generation

    async def fence(self, volume: Path) -> int:
        """SIGKILL to what runs on a volume now; what is only being launched is not there yet."""
        assert self.agent is not None
        await asyncio.sleep(0.003)
        with self.effects.one(self.agent.life, "host.fence"):
            found = [engine for engine in self.host.engines.values() if engine.volume == volume]
            for engine in found:
                self.host.end(engine.server.node_id, engine, -9)
        await asyncio.sleep(0.003)
        return len(found)

    # The control plane

    def change(self, **changes: Any) -> None:
        """One more generation of every node's spec."""
        for node_id, spec in self.specs.items():
            self.change_one(node_id, **changes)
            del spec

    def change_one(self, node_id: str, **changes: Any) -> None:
        spec = self.specs[node_id]
        self.specs[node_id] = msgspec.structs.replace(spec, generation=spec.generation + 1, **changes)

    def seen_leader(self) -> str:
        """Who leads, as the control plane was told last."""
        record = self.records[-1] if self.records else None
        return record.primary if record is not None and record.primary in self.specs else next(iter(self.specs))

    def add_standby(self) -> None:
        """ModifyDBInstance(MultiAZ=true)."""
        (leader,) = [one for one in self.specs.values() if one.target is not NodeTarget.ABSENT]
        self._nodes += 1
        node_id = f"node-{self._nodes}"
        self.change_one(leader.node_id, peer=Peer(node_id, "us-east-1b"))
        copied = msgspec.structs.replace(
            self.specs[leader.node_id], node_id=node_id, generation=1, role=NodeRole.STANDBY,
            listen_address=f"127.0.0.{self._nodes}", peer=Peer(leader.node_id, "us-east-1a"),
        )  # fmt: skip
        self.specs[node_id] = copied

    def remove_standby(self) -> None:
        """ModifyDBInstance(MultiAZ=false)."""
        leader = self.seen_leader()
        for node_id in list(self.specs):
            target = self.specs[node_id].target if node_id == leader else NodeTarget.ABSENT
            self.change_one(node_id, peer=None if node_id == leader else self.specs[node_id].peer, target=target)

    def forget_absent(self) -> None:
        """What is reported gone is no more."""
        if self.agent is None or not self.agent.life.alive:
            return
        for node_id, spec in list(self.specs.items()):
            root = self.directory / "nodes" / node_id
            if spec.target is NodeTarget.ABSENT and not root.exists() and node_id not in self.agent.keepers:
                del self.specs[node_id]

    # Clients

    def connect(self) -> Client | None:
        """A new connection, as the endpoint would make it now."""
        route = self.host.routes.get(INSTANCE)
        if route is None or route[2] is None:
            return None
        for engine in self.host.engines.values():
            spec = self.specs.get(engine.server.node_id)
            if spec is not None and spec.listen_address == route[2] and engine.server.open:
                return None if engine.server.follows else Client(self, engine.server, route[3], route[2])
        return None

    async def _live_client(self) -> None:
        draw = random.Random(self.draw.random())
        while not self._hands_off:
            client = self.connect()
            if client is None:
                await asyncio.sleep(draw.uniform(0.05, 0.3))
                continue
            for _ in range(draw.randrange(1, 30)):
                if self._hands_off or not await self.use(client):
                    break
                await asyncio.sleep(draw.choice((0.0, 0.02, 0.1, 0.6)))

    async def use(self, client: Client) -> bool:
        """Commits one value and reads; returns whether the connection is still good."""
        self._numbers += 1
        value = self._numbers
        self.ledger.attempted.add(value)
        outcome = asyncio.get_running_loop().create_future()
        client.server.spawn(_commit(client.server, value, outcome))
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await outcome
        if not outcome.done() or not outcome.result() or not client.connected:
            return False
        self.ledger.acknowledge(value, client)
        try:
            await client.server.turn()
        except Gone:
            return False
        if client.connected and client.server.open:
            self.ledger.read(client)
        return True

    # A life

    async def begin(self) -> None:
        """A pair in sync, with clients at work."""
        self.effects.reset(self._decide)
        self._nodes = 1
        self.specs["node-1"] = _spec("node-1", 1, NodeRole.PRIMARY)
        self.add_standby()
        asyncio.get_running_loop().create_task(self._supervise(), context=unowned())
        for _ in range(CLIENTS):
            asyncio.get_running_loop().create_task(self._live_client(), context=unowned())

    def heal(self) -> None:
        """No fault any more."""
        self.disk_full, self.stray_kill = False, 0.0
        weather = self.host.weather
        weather.link_cut, weather.slowness = False, 1.0
        for engine in self.host.engines.values():
            engine.server.broken_disk = False
            if engine.server.frozen:
                engine.server.thaw()

    async def converge(self, limit_s: float = CONVERGES_S) -> None:
        """Until the pair is in sync, published and taking writes; raises `Violation` if that takes too long."""
        until = self.clock.monotonic() + limit_s
        while not await self._at_rest():
            if self.bug is not None:
                raise self.bug
            if self.clock.monotonic() > until:
                assert self.agent is not None
                raise Violation(f"not at rest {limit_s} s after the last fault: {self.agent.statuses()}")
            await asyncio.sleep(0.5)

    async def _at_rest(self) -> bool:
        self.forget_absent()
        agent, record = self.agent, self.record()
        if agent is None or not agent.life.alive:
            return False
        statuses = agent.statuses()
        wanted = {node_id for node_id, spec in self.specs.items() if spec.target is not NodeTarget.ABSENT}
        if {status.node_id for status in statuses} != wanted:
            return False
        if any(s.phase is not NodePhase.RUNNING or s.settled_generation < s.generation for s in statuses):
            return False
        if any(status.generation != self.specs[status.node_id].generation for status in statuses):
            return False
        if len(wanted) == 2 and (record is None or not record.standby):
            return False
        client = self.connect()
        return client is not None and await self.use(client)

    async def check_end(self) -> None:
        """After rest, with the clients gone: everything promised is there, once, on both nodes."""
        self._hands_off = True
        await asyncio.sleep(ANSWER_TIMEOUT_S + 2.0)
        client = self.connect()
        if client is None:
            raise Violation("nobody answers at the end")
        self.ledger.check_all(client.server)
        for node_id, engine in self.host.engines.items():
            wanted = (self.directory / "nodes" / node_id / "conf" / SETTINGS_FILE).read_text()
            if engine.server.settings != wanted:
                raise Violation(f"{node_id} runs with {engine.server.settings}, not with {wanted}")


async def _commit(server: Server, value: int, outcome: asyncio.Future[bool]) -> None:
    try:
        await server.commit(value)
        if not outcome.done():
            outcome.set_result(True)
    finally:
        if not outcome.done():
            outcome.set_result(False)


@contextmanager
def real_code_on(world: PairWorld) -> Iterator[None]:
    """The fence of the machine is the simulated one's."""
    with mock.patch.object(node_engine, "fence", world.fence), mock.patch("os.fsync", lambda _descriptor: None):
        yield


def live(directory: Path, seed: int, story: Callable[[PairWorld], Any]) -> PairWorld:
    """One life. A violation carries the seed and the history."""
    directory.mkdir(parents=True, exist_ok=True)
    world = PairWorld(directory, seed)

    async def main() -> None:
        await world.begin()
        await story(world)
        if world.agent is not None:
            world.agent.life.kill()

    try:
        with real_code_on(world):
            simulate(world.clock, main)
        if world.host.violations:
            raise Violation(world.host.violations[0])
    except (Violation, AssertionError, MainstayError) as error:
        tail = "\n".join(world.history[-60:])
        raise Violation(f"seed {seed}: {error}\n{tail}") from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return world


def lose_data(world: PairWorld, node_id: str) -> None:
    """The engine dies and its data directory is gone."""
    engine = world.host.engines.get(node_id)
    if engine is not None:
        world.host.end(node_id, engine, -9)
    data = world.directory / "nodes" / node_id / "volume" / "data"
    if (data / DATA_MARKER).exists():
        shutil.rmtree(data)


def crash_backend(world: PairWorld, engine: Engine) -> None:
    """One process of the server crashes: it starts over by itself, or ends, as it was told."""
    server = engine.server
    if not server.survives_backend_crash:
        world.host.end(server.node_id, engine, 1)
        return
    server.disk.crash(world.draw)
    if server.open and not server.follows:
        server.recovered()


def settings_of(engine: Engine) -> dict[str, Any]:
    """The configuration that the engine has read."""
    found: dict[str, Any] = json.loads(engine.settings)
    return found
