"""The simulated twins: store, journal, engine processes, routes and an engine driver, all on one `Host`.

A `Host` is what outlives our processes: running engines, routes, files. Everything done to it is an effect.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from mainstay.agent.journal import InEffect, Journal
from mainstay.engines.base import Health, RecoveryPause, StartCommand, Vitals
from mainstay.engines.node_files import NodeFiles
from mainstay.host.clock import SimulatedClock
from mainstay.host.leases import LocalLeases
from mainstay.host.processes import User
from mainstay.host.shims import EngineProcess, Launch
from mainstay.model.assignment import Assignment, Upstream
from mainstay.model.engine import EngineBuild, ParameterDefinition
from mainstay.model.errors import Permanent, Refused, Transient
from mainstay.model.node import NodeSpec, ReplicationStatus
from mainstay.model.pair import PairRecord
from mainstay.store import SqliteStore
from mainstay.store.sqlite import SqliteTransaction
from simulation.archive import RECOVERY_MARK, SimulatedBackups
from simulation.database import Disk, Gone, Server, Weather
from simulation.effects import Effects
from simulation.loop import Lifetime, unowned
from simulation.repositories import Storage

PAUSED = "--paused"
START_S = 0.2
STOP_S = 0.1
BROKEN_START_S = 0.05
BROKEN_VALUE = "1073741823"
MUTE_VALUE, STUBBORN_VALUE = "2147483647", "2147483646"
"""Of work_mem: the engine comes up, and answers every session of ours, or what it is told in one, with an error."""

SETTINGS_FILE = "engine.json"
ACCOUNTS_FILE = "accounts.json"
DATA_MARKER = "VERSION"
FOLLOWER_MARK = "standby.signal"
CATCH_UP_TIMEOUT_S = 10.0
LOOK_TIMEOUT_S = 1.5


class Engine:
    """One simulated engine process."""

    def __init__(self, pid: int, launch: Launch, now: float, server: Server) -> None:
        self.pid = pid
        self.tag = launch.tag
        self.started_at = now
        self.ready_at = now + START_S
        self.server = server
        self.volume = launch.cwd
        self.paused = PAUSED in launch.argv
        self.signals: list[int] = []
        self.deaf_to: frozenset[int] = frozenset()

    @property
    def settings(self) -> str:
        """The configuration file as it was read last."""
        return self.server.settings


class Host:
    """What is there whether or not any process of ours lives."""

    def __init__(self, directory: Path, clock: SimulatedClock, effects: Effects) -> None:
        self.directory = directory
        self.clock = clock
        self.effects = effects
        self.weather = Weather()
        self.engines: dict[str, Engine] = {}
        self.disks: dict[str, Disk] = {}
        self.routes: dict[str, tuple[str, int, str | None, int, tuple[str, ...]]] = {}
        self.violations: list[str] = []
        self.storage = Storage()
        self.on_exit: Callable[[str, int | None], None] | None = None
        self.on_lead: Callable[[Engine], None] = lambda _engine: None
        self.deaf_to: frozenset[int] = frozenset()
        self._pids = 1000

    # Data directories: a marker that names the disk, and a file that makes it a follower's

    def disk(self, data: Path) -> Disk:
        """What a data directory holds."""
        return self.disks.setdefault((data / DATA_MARKER).read_text(), Disk())

    def new_data(self, directory: Path, disk: Disk, *, follows: bool) -> None:
        """Fills an empty directory."""
        name = f"disk{len(self.disks) + 1}"
        self.disks[name] = disk
        if follows:
            (directory / FOLLOWER_MARK).touch()
        (directory / DATA_MARKER).write_text(name)

    # Processes

    def launch(self, node_id: str, launch: Launch) -> Engine:
        if node_id in self.engines:
            self.violations.append(f"two engines on the volume of {node_id}")
        self._pids += 1
        settings = (launch.cwd.parent / "conf" / SETTINGS_FILE).read_text()
        data = launch.cwd / "data"
        follows = (data / FOLLOWER_MARK).exists()
        server = Server(node_id, self.disk(data), "{}", self.weather, follows=follows)
        engine = self.engines[node_id] = Engine(self._pids, launch, self.clock.monotonic(), server)
        engine.deaf_to = self.deaf_to
        server.read_settings(settings)
        if json.loads(settings).get("shared_buffers") == BROKEN_VALUE:
            engine.ready_at = float("inf")
            with launch.output.open("a") as output:
                output.write("the settings are nonsense\n")
            asyncio.get_running_loop().call_later(BROKEN_START_S, self.end, node_id, engine, 1)
            return engine
        engine.ready_at += self.weather.s(0.1, 4.0)
        server.spawn(self._start(engine))
        return engine

    def replace_server(self, engine: Engine) -> None:
        """The engine came from another world: what runs inside it is made anew; `resume` lets it go on."""
        former = engine.server
        disk = self.disk(engine.volume / "data")
        engine.server = Server(former.node_id, disk, former.settings, self.weather, follows=former.follows)
        engine.server.waits_for = former.waits_for

    def resume(self) -> None:
        """Every engine goes on with what it did."""
        for engine in self.engines.values():
            engine.server.spawn(self._start(engine))

    async def _start(self, engine: Engine) -> None:
        server = engine.server
        starting_s = engine.ready_at - self.clock.monotonic()
        await asyncio.sleep(starting_s / 2)
        with suppress(OSError):  # by then they may be other ones than as it was launched, or gone
            settings = (engine.volume.parent / "conf" / SETTINGS_FILE).read_text()
            if settings != server.settings:
                server.read_settings(settings)
        await asyncio.sleep(starting_s / 2)
        await server.turn()
        if server.shutting_down:
            return
        if server.follows:
            await server.follow(lambda: self._upstream(server))
        else:
            server.recovered()
            if engine.paused:
                return
            (engine.volume / "data" / RECOVERY_MARK).unlink(missing_ok=True)
            self.on_lead(engine)

    def _upstream(self, server: Server) -> Server | None:
        wanted = json.loads(server.settings).get("upstream", "")
        found = self.engines.get(wanted)
        return None if found is None else found.server

    def promote(self, engine: Engine, data: Path) -> None:
        """Tells a follower to lead; it does so a little later."""

        async def lead() -> None:
            await asyncio.sleep(self.weather.s(0.1, 2.0))
            await engine.server.turn()
            if engine.server.follows and (data / FOLLOWER_MARK).exists():
                (data / FOLLOWER_MARK).unlink()
                engine.server.promoted()
                self.on_lead(engine)

        engine.server.spawn(lead())

    def signal(self, engine: Engine, number: int) -> None:
        """Sends a signal. A frozen process gets it when it goes on, except for SIGKILL."""
        engine.signals.append(number)
        if number in engine.deaf_to:
            return
        if number == signal.SIGKILL:
            self.end(engine.server.node_id, engine, -9)
        else:
            engine.server.spawn(self._take_signal(engine, number))

    async def _take_signal(self, engine: Engine, number: int) -> None:
        server = engine.server
        await server.turn()
        if number == signal.SIGHUP:
            server.read_settings((engine.volume.parent / "conf" / SETTINGS_FILE).read_text())
            return
        engine.ready_at = float("inf")
        if number == signal.SIGINT and not server.follows:
            await server.hand_over()
        server.shutting_down, server.open = True, False
        await asyncio.sleep(STOP_S + self.weather.s(0.05, 2.0))
        await server.turn()
        self.end(server.node_id, engine, 0)

    def end(self, node_id: str, engine: Engine, exit_code: int) -> None:
        """The engine process has ended; an agent that lives is told."""
        if self.engines.get(node_id) is not engine:
            return
        del self.engines[node_id]
        engine.server.end()
        if self.on_exit is None:
            return
        delay_s = self.weather.s(0.005, 0.1)
        if delay_s:
            context = unowned()
            asyncio.get_running_loop().call_later(delay_s, self.on_exit, node_id, exit_code, context=context)
        else:
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
            delay_s = self._host.weather.s(0.06, 0.5)
            started = asyncio.get_running_loop().create_future()
            if delay_s:  # whoever asked may die meanwhile: the engine comes up all the same
                call_later = asyncio.get_running_loop().call_later
                call_later(delay_s, self._launch, node_id, launch, started, context=unowned())
            else:
                self._launch(node_id, launch, started)
        await asyncio.sleep(0)
        engine: Engine = await started
        self._owner.check()
        return _seen(engine)

    def _launch(self, node_id: str, launch: Launch, started: asyncio.Future[Engine]) -> None:
        second = self._host.weather.wild and node_id in self._host.engines  # its lock file keeps it out
        if second or not (launch.cwd / "data" / DATA_MARKER).exists():
            if not started.done():
                started.set_exception(Transient("the engine ended at once"))
            return
        engine = self._host.launch(node_id, launch)
        if not started.done():
            started.set_result(engine)

    def signal(self, node_id: str, number: int) -> None:
        with self._host.effects.one(self._owner, "shims.signal"):
            engine = self._host.engines.get(node_id)
            if engine is not None:
                self._host.signal(engine, number)


def _seen(engine: Engine) -> EngineProcess:
    return EngineProcess(pid=engine.pid, started_at=engine.started_at, tag=engine.tag)


class SimulatedRoutes:
    """`Routes` into the host's routing table."""

    def __init__(self, host: Host, owner: Lifetime) -> None:
        self._host, self._owner = host, owner

    async def publish(self, spec: NodeSpec, epoch: int) -> None:
        self._put("routes.publish", spec, epoch, spec.listen_address)

    async def hold(self, spec: NodeSpec, epoch: int) -> None:
        self._put("routes.hold", spec, epoch, None)

    async def withdraw(self, spec: NodeSpec) -> None:
        with self._host.effects.one(self._owner, "routes.withdraw"):
            self._host.routes.pop(spec.endpoint.endpoint_id, None)

    def _put(self, name: str, spec: NodeSpec, epoch: int, target: str | None) -> None:
        end = spec.endpoint
        with self._host.effects.one(self._owner, name):
            previous = self._host.routes.get(end.endpoint_id)
            if previous is not None and epoch < previous[3]:
                raise Permanent(f"{end.endpoint_id} is at epoch {previous[3]}; epoch {epoch} is over")
            self._host.routes[end.endpoint_id] = (end.address, end.port, target, epoch, end.admits)


class SimulatedLeases(LocalLeases):
    """A real lease store whose writes are effects."""

    def __init__(self, host: Host, owner: Lifetime) -> None:
        super().__init__(host.directory / "leases")
        self._host, self._owner = host, owner

    def replace(self, dbi_resource_id: str, expected: PairRecord | None, record: PairRecord) -> None:
        with self._host.effects.one(self._owner, "leases.replace"):
            super().replace(dbi_resource_id, expected, record)

    def forget(self, dbi_resource_id: str) -> None:
        with self._host.effects.one(self._owner, "leases.forget"):
            super().forget(dbi_resource_id)


class SimulatedDriver:
    """`EngineDriver` of an engine whose data, settings and accounts are small files."""

    name = "postgres"
    stop_signals = ((int(signal.SIGINT), 60.0), (int(signal.SIGQUIT), 10.0), (int(signal.SIGKILL), 5.0))
    reload_signal = int(signal.SIGHUP)
    keeps_received = True
    asks_about_logins = False
    dumps = None
    switch_patience_s = 3.0

    def __init__(self, host: Host, owner: Lifetime) -> None:
        self._host, self._owner = host, owner
        self.backups = SimulatedBackups(host.clock)

    async def configuration(
        self, spec: NodeSpec, assignment: Assignment, files: NodeFiles, build: EngineBuild
    ) -> dict[str, str]:
        settings: dict[str, Any] = {**spec.parameters, "version": build.version, "require_tls": spec.require_tls}
        if assignment.upstream is not None:
            settings["upstream"] = assignment.upstream.node_id
        if assignment.synchronous_standby:
            settings |= {"synchronous_standby": assignment.synchronous_standby, "restart_after_crash": False}
        return {SETTINGS_FILE: json.dumps(settings, sort_keys=True)}

    def initialised(self, files: NodeFiles) -> bool:
        return (files.data / DATA_MARKER).exists()

    def follows(self, files: NodeFiles) -> bool:
        return (files.data / FOLLOWER_MARK).exists()

    async def initialise(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User) -> None:
        with self._host.effects.one(self._owner, "driver.initialise"):
            unfinished = files.volume / "data.initialising"
            unfinished.mkdir(exist_ok=True)
            self._host.new_data(unfinished, Disk(), follows=False)
            unfinished.rename(files.data)

    async def clone(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User, upstream: Upstream) -> None:
        host = self._host
        source = host.engines.get(upstream.node_id)
        until = host.clock.monotonic() + 0.5 + host.weather.s(0.5, 15.0)
        while source is not None and host.clock.monotonic() < until:
            await asyncio.sleep(0.1)
            if host.engines.get(upstream.node_id) is not source or source.server.shutting_down:
                source = None
        if source is None or not source.server.open or source.server.frozen:
            raise Transient("the source went away", retry_after_s=0.5)
        with host.effects.one(self._owner, "driver.clone"):
            if spec.node_id in host.engines:
                host.violations.append(f"the data of {spec.node_id} is replaced under its running engine")
            for name in ("data.cloning", "data.discarded"):
                shutil.rmtree(files.volume / name, ignore_errors=True)
            unfinished = files.volume / "data.cloning"
            unfinished.mkdir()
            host.new_data(unfinished, source.server.disk.copy(), follows=True)
            if files.data.exists():
                files.data.rename(files.volume / "data.discarded")
            unfinished.rename(files.data)
            shutil.rmtree(files.volume / "data.discarded", ignore_errors=True)

    async def rejoin(
        self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User, upstream: Upstream
    ) -> None:
        await self.clone(spec, files, build, user, upstream)

    async def promote(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild, user: User) -> None:
        with self._host.effects.one(self._owner, "driver.promote"):
            engine = self._host.engines.get(spec.node_id)
            if engine is None or not self.follows(files):
                raise Transient("there is no follower to promote")
            self._host.promote(engine, files.data)
        await asyncio.sleep(self._host.weather.s(0.01, 0.2))  # the tool that has told it ends a moment later

    async def confirm_synchronous(self, spec: NodeSpec, files: NodeFiles, follower: str) -> bool:
        server = self._answering(spec)
        number = server.read_settings((files.configuration / SETTINGS_FILE).read_text())
        while server.settings_in_force < number:  # two reloads and a checkpoint
            await server.news()
            await self._turn(server)
        position = len(server.disk.wal)
        until = self._host.clock.monotonic() + CATCH_UP_TIMEOUT_S
        while self._host.clock.monotonic() < until:
            await self._turn(server)
            if server.waits_for != follower or follower not in server.followers:
                await asyncio.sleep(0.01)  # a question takes time; who asks again at once must not stop the clock
                return False
            if server.reports.get(follower, 0) >= position:
                return True
            await server.news(0.1)
        return False

    async def settle_writes(self, spec: NodeSpec, files: NodeFiles) -> None:
        await self._turn(self._answering(spec))
        await asyncio.sleep(self._host.weather.s(0.05, 6.0))

    async def replication(self, spec: NodeSpec, files: NodeFiles) -> ReplicationStatus | None:
        return None

    def loss(self, log_text: str) -> str:
        return ""

    def monitor(self, spec: NodeSpec, files: NodeFiles) -> SimulatedMonitor:
        return SimulatedMonitor(self._host, spec.node_id)

    def _answering(self, spec: NodeSpec) -> Server:
        engine = self._host.engines.get(spec.node_id)
        if engine is None or not engine.server.open:
            raise Transient("the engine does not answer")
        return engine.server

    async def _turn(self, server: Server) -> None:
        try:
            await server.turn()
        except Gone as error:
            raise Transient("the engine went away") from error

    def start_command(self, spec: NodeSpec, files: NodeFiles, build: EngineBuild) -> StartCommand:
        paused = spec.restore is not None and spec.restore.paused and self.backups.recovering(files)
        return StartCommand(argv=("engine", str(files.data), *((PAUSED,) if paused else ())))

    def _refuses(self, node_id: str, value: str) -> bool:
        engine = self._host.engines.get(node_id)
        return engine is not None and json.loads(engine.server.settings).get("work_mem") == value

    def last_words(self, log_text: str) -> list[str]:
        return log_text.splitlines()

    async def probe(self, spec: NodeSpec, files: NodeFiles) -> Health:
        engine = self._host.engines.get(spec.node_id)
        await asyncio.sleep(0)
        if engine is not None and engine.server.frozen:
            await asyncio.sleep(1.0)
            return Health(ready=False, message="no answer")
        ready = engine is not None and self._host.clock.monotonic() >= engine.ready_at
        if ready and self._refuses(spec.node_id, MUTE_VALUE):
            return Health(ready=False, refused=True, message="nonsense in work_mem")
        if engine is not None and engine.server.follows:
            return Health(ready=ready, cold=ready, starting=not ready)
        ready = ready and engine is not None and engine.server.open
        pause = RecoveryPause(position="0/1") if ready and engine is not None and engine.paused else None
        return Health(ready=ready, starting=not ready, pause=pause)

    async def reload(self, spec: NodeSpec, files: NodeFiles) -> Health:
        await asyncio.sleep(0.01)
        with self._host.effects.one(self._owner, "driver.reload"):
            engine = self._host.engines.get(spec.node_id)
            if engine is None or engine.server.frozen:
                raise Transient("nothing answers here")
            engine.server.read_settings((files.configuration / SETTINGS_FILE).read_text())
        return Health(ready=True)

    async def apply_accounts(self, spec: NodeSpec, files: NodeFiles) -> None:
        await asyncio.sleep(0.01)
        with self._host.effects.one(self._owner, "driver.apply_accounts"):
            if self._refuses(spec.node_id, STUBBORN_VALUE):
                raise Refused("nonsense in work_mem")
            if self._host.engines[spec.node_id].paused:
                self._host.violations.append(f"{spec.node_id} is written while it is only to be looked at")
            accounts = {
                "master": spec.master.name,
                "verifier": spec.master.password_verifier,
                "database": spec.database,
            }
            (files.data / ACCOUNTS_FILE).write_text(json.dumps(accounts))


class SimulatedMonitor:
    """`Monitor` of a simulated server."""

    def __init__(self, host: Host, node_id: str) -> None:
        self._host, self._node_id = host, node_id

    async def look(self, follower: str, *, write: bool) -> Vitals:
        engine = self._host.engines.get(self._node_id)
        await asyncio.sleep(self._host.weather.s(0.003, 0.1))
        if engine is None or engine.server.ended:
            return Vitals(answered=True, starting=True)
        server = engine.server
        if server.frozen:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_TIMEOUT_S):
                    await server._running.wait()
            if server.frozen:
                return Vitals(answered=False)
        if not server.open:
            return Vitals(answered=True, starting=True)
        if server.broken_disk and write:
            return Vitals(answered=True, storage_fault=True)
        heard = server.followers.get(follower)
        behind = server.disk.flushed - server.reports.get(follower, 0)
        return Vitals(
            answered=True,
            streaming=heard is not None,
            synchronous=server.waits_for == follower,
            heard="" if heard is None else str(heard),
            behind_bytes=0 if heard is None else behind,
        )

    async def close(self) -> None:
        return


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
