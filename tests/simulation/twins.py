"""The simulated twins: store, journal, engine processes, routes and an engine driver, all on one `Host`.

A `Host` is what outlives our processes: running engines, routes, files. Everything done to it is an effect.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from mainstay.agent.journal import InEffect, Journal
from mainstay.engines.base import Health, NodeFiles, StartCommand
from mainstay.host.clock import SimulatedClock
from mainstay.host.processes import User
from mainstay.host.shims import EngineProcess, Launch
from mainstay.model.engine import EngineBuild, ParameterDefinition
from mainstay.model.errors import Permanent, Transient
from mainstay.model.node import NodeSpec
from mainstay.store import SqliteStore
from mainstay.store.sqlite import SqliteTransaction
from simulation.effects import Effects
from simulation.loop import Lifetime

START_S = 0.2
STOP_S = 0.1
BROKEN_START_S = 0.05
BROKEN_VALUE = "1073741823"
SETTINGS_FILE = "engine.json"
ACCOUNTS_FILE = "accounts.json"
DATA_MARKER = "VERSION"


class Engine:
    """One simulated engine process."""

    def __init__(self, pid: int, launch: Launch, now: float, settings: str) -> None:
        self.pid = pid
        self.tag = launch.tag
        self.started_at = now
        self.ready_at = now + START_S
        self.settings = settings
        self.signals: list[int] = []
        self.deaf_to: frozenset[int] = frozenset()


class Host:
    """What is there whether or not any process of ours lives."""

    def __init__(self, directory: Path, clock: SimulatedClock, effects: Effects) -> None:
        self.directory = directory
        self.clock = clock
        self.effects = effects
        self.engines: dict[str, Engine] = {}
        self.routes: dict[str, tuple[str, int, str | None, int, tuple[str, ...]]] = {}
        self.violations: list[str] = []
        self.on_exit: Callable[[str, int | None], None] | None = None
        self.deaf_to: frozenset[int] = frozenset()
        self._pids = 1000

    def launch(self, node_id: str, launch: Launch) -> Engine:
        if node_id in self.engines:
            self.violations.append(f"two engines on the volume of {node_id}")
        self._pids += 1
        settings = (launch.cwd.parent / "conf" / SETTINGS_FILE).read_text()
        engine = self.engines[node_id] = Engine(self._pids, launch, self.clock.monotonic(), settings)
        engine.deaf_to = self.deaf_to
        if json.loads(settings).get("shared_buffers") == BROKEN_VALUE:
            engine.ready_at = float("inf")
            asyncio.get_running_loop().call_later(BROKEN_START_S, self.end, node_id, engine, 1)
        return engine

    def end(self, node_id: str, engine: Engine, exit_code: int) -> None:
        """The engine process has ended; an agent that lives is told."""
        if self.engines.get(node_id) is engine:
            del self.engines[node_id]
            if self.on_exit is not None:
                self.on_exit(node_id, exit_code)


class SimulatedStore(SqliteStore):
    """A real store whose commits are effects."""

    def __init__(self, path: Path, effects: Effects, owner: Lifetime) -> None:
        super().__init__(path)
        self._db.execute("PRAGMA synchronous = OFF")  # the simulated machine never loses power
        self._effects, self._owner = effects, owner
        self.commits = 0

    @contextmanager
    def transaction(self) -> Iterator[SqliteTransaction]:
        committing = self._effects.one(self._owner, "store.commit")
        with super().transaction() as tx:
            yield tx
            self._owner.check()
            committing.__enter__()
        self.commits += 1
        committing.__exit__(None, None, None)


class SimulatedJournal(Journal):
    """A real journal whose writes are effects."""

    def __init__(self, host: Host, owner: Lifetime) -> None:
        super().__init__(host.directory / "nodes", host.directory / "sockets")
        self._host, self._owner = host, owner

    def write_spec(self, spec: NodeSpec) -> None:
        with self._host.effects.one(self._owner, "journal.write_spec"):
            super().write_spec(spec)

    def write_in_effect(self, node_id: str, in_effect: InEffect) -> None:
        with self._host.effects.one(self._owner, "journal.write_in_effect"):
            super().write_in_effect(node_id, in_effect)

    async def forget(self, node_id: str) -> None:
        with self._host.effects.one(self._owner, "journal.forget"):
            await super().forget(node_id)


class SimulatedUser(User, frozen=True):
    """Ourselves; giving a path away is an effect, so a kill can come between two directories."""

    given: Callable[[], Any] = lambda: None

    def give(self, path: Path) -> None:
        self.given()


class SimulatedShims:
    """`Shims` of one agent's life."""

    def __init__(self, host: Host, owner: Lifetime, on_exit: Callable[[str, int | None], None]) -> None:
        self._host, self._owner = host, owner

        def tell(node_id: str, exit_code: int | None) -> None:
            if owner.alive:
                on_exit(node_id, exit_code)

        host.on_exit = tell

    async def adopt(self, node_id: str) -> EngineProcess | None:
        engine = self._host.engines.get(node_id)
        return None if engine is None else _seen(engine)

    async def launch(self, node_id: str, launch: Launch) -> EngineProcess:
        with self._host.effects.one(self._owner, "shims.launch"):
            engine = self._host.launch(node_id, launch)
        await asyncio.sleep(0)
        return _seen(engine)

    def signal(self, node_id: str, number: int) -> None:
        with self._host.effects.one(self._owner, "shims.signal"):
            engine = self._host.engines.get(node_id)
            if engine is not None:
                engine.signals.append(number)
                if number not in engine.deaf_to:
                    engine.ready_at = float("inf")
                    asyncio.get_running_loop().call_later(STOP_S, self._host.end, node_id, engine, 0)


def _seen(engine: Engine) -> EngineProcess:
    return EngineProcess(pid=engine.pid, started_at=engine.started_at, tag=engine.tag)


class SimulatedRoutes:
    """`Routes` into the host's routing table."""

    def __init__(self, host: Host, owner: Lifetime) -> None:
        self._host, self._owner = host, owner

    async def publish(self, spec: NodeSpec) -> None:
        self._put("routes.publish", spec, spec.listen_address)

    async def hold(self, spec: NodeSpec) -> None:
        self._put("routes.hold", spec, None)

    async def withdraw(self, spec: NodeSpec) -> None:
        with self._host.effects.one(self._owner, "routes.withdraw"):
            self._host.routes.pop(spec.endpoint.endpoint_id, None)

    def _put(self, name: str, spec: NodeSpec, target: str | None) -> None:
        end = spec.endpoint
        with self._host.effects.one(self._owner, name):
            self._host.routes[end.endpoint_id] = (end.address, end.port, target, spec.epoch, end.admits)


class SimulatedDriver:
    """`EngineDriver` of an engine whose data, settings and accounts are small files."""

    name = "postgres"
    stop_signals = ((int(signal.SIGINT), 60.0), (int(signal.SIGQUIT), 10.0), (int(signal.SIGKILL), 5.0))

    def __init__(self, host: Host, owner: Lifetime) -> None:
        self._host, self._owner = host, owner

    def configuration(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild) -> dict[str, str]:
        settings = {**spec.parameters, "version": build.version, "require_tls": spec.require_tls}
        return {SETTINGS_FILE: json.dumps(settings, sort_keys=True)}

    def initialised(self, files: NodeFiles) -> bool:
        return (files.data / DATA_MARKER).exists()

    async def initialise(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User) -> None:
        with self._host.effects.one(self._owner, "driver.initialise"):
            unfinished = files.volume / "data.initialising"
            unfinished.mkdir(exist_ok=True)
            (unfinished / DATA_MARKER).write_text(build.major)
            unfinished.rename(files.data)

    def start_command(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild) -> StartCommand:
        return StartCommand(argv=("engine", str(files.data)))

    async def probe(self, spec: NodeSpec, files: NodeFiles) -> Health:
        engine = self._host.engines.get(spec.node_id)
        await asyncio.sleep(0)
        ready = engine is not None and self._host.clock.monotonic() >= engine.ready_at
        return Health(ready=ready, starting=not ready)

    async def reload(self, spec: NodeSpec, files: NodeFiles) -> Health:
        await asyncio.sleep(0.01)
        with self._host.effects.one(self._owner, "driver.reload"):
            engine = self._host.engines.get(spec.node_id)
            if engine is None:
                raise Transient("nothing runs here")
            engine.settings = (files.configuration / SETTINGS_FILE).read_text()
        return Health(ready=True)

    async def apply_accounts(self, spec: NodeSpec, files: NodeFiles) -> None:
        await asyncio.sleep(0.01)
        with self._host.effects.one(self._owner, "driver.apply_accounts"):
            accounts = {
                "master": spec.master.name,
                "verifier": spec.master.password_verifier,
                "database": spec.database,
            }
            (files.data / ACCOUNTS_FILE).write_text(json.dumps(accounts))


def build(version: str) -> EngineBuild:
    """An installed build of the simulated engine."""
    major, nowhere = version.split(".")[0], Path("/nowhere")
    return EngineBuild(
        engine="postgres", version=version, major=major, family=f"postgres{major}", prefix=nowhere,
        bin_directory=nowhere, library_directory=nowhere, share_directory=nowhere, origin="installed",
    )  # fmt: skip


class SimulatedBuilds:
    """`Builds` with a fixed list."""

    def __init__(self, *versions: str) -> None:
        self.present = [build(version) for version in versions]

    def installed(self) -> list[EngineBuild]:
        return list(self.present)

    def of(self, engine: str) -> list[EngineBuild]:
        return [one for one in self.present if one.engine == engine]

    def resolve(self, engine: str, version: str) -> EngineBuild:
        found = [one for one in self.of(engine) if version in (one.version, one.major)]
        if not found:
            raise Permanent(f"{engine} {version} is not installed")
        return max(found, key=lambda one: one.version)


def _parameter(name: str, apply_type: str, default: str, **more: Any) -> ParameterDefinition:
    return ParameterDefinition(name=name, data_type="integer", apply_type=apply_type, default=default, **more)


DEFINITIONS = {
    one.name: one
    for one in (
        _parameter("work_mem", "dynamic", "4096", allowed_values="64-2147483647"),
        _parameter("shared_buffers", "static", "{DBInstanceClassMemory/32768}", source="system",
                   allowed_values="16-1073741823"),
    )
}  # fmt: skip


def fresh(struct: Any, kind: Any) -> Any:
    """A value as the other process gets it: through the wire format."""
    return msgspec.json.decode(msgspec.json.encode(struct), type=kind)
