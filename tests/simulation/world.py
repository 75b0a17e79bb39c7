"""A service in simulated time: the real control side and the real agent side on twins, killable at any effect."""

from __future__ import annotations

import asyncio
import pwd
import shutil
import tempfile
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any, cast

import msgspec

from harness.builds import InstalledBuilds
from mainstay.agent.instances import Instances
from mainstay.agent.keeper import Keeper
from mainstay.agent.process import Agent
from mainstay.agent.tools import KeeperTools
from mainstay.control.access_lists import AccessListPusher
from mainstay.control.encryption_keys import KeyWatcher
from mainstay.control.fleet import RpcFleet
from mainstay.control.volumes import VolumeKeeper
from mainstay.engines.postgresql.rules import PostgresqlRules
from mainstay.engines.registry import Engines
from mainstay.host.certificates import CertificateAuthorities
from mainstay.host.cgroups import ControlGroups
from mainstay.host.clock import SimulatedClock
from mainstay.host.randomness import SeededRandomness
from mainstay.host.vault import Vault
from mainstay.host.volumes.clones import Clones
from mainstay.model.capacity import HostCapacity
from mainstay.model.errors import ApiError, MainstayError, Transient
from mainstay.model.node import NodePhase
from mainstay.model.records import Scope
from mainstay.model.repository_job import JobStatus, RepositoryJob
from mainstay.services import ec2
from mainstay.services.ec2.changes import AccessListListener
from mainstay.services.kms import api as kms
from mainstay.services.kms.changes import KeyStateListener
from mainstay.services.operations import Call, Caller
from mainstay.services.rds import api as rds
from mainstay.services.secretsmanager import api as secretsmanager
from mainstay.settings import Settings
from mainstay.store import Job
from mainstay.workflows.engine import Tools, Worker
from mainstay.workflows.fleet import Fleet
from mainstay.workflows.programs import PROGRAMS
from simulation.archive import SimulatedArchiver, SimulatedRepositories
from simulation.effects import Effects
from simulation.loop import Killed, Lifetime
from simulation.repositories import JobRunner
from simulation.twins import (
    DEFINITIONS,
    Host,
    SimulatedDriver,
    SimulatedJournal,
    SimulatedLeases,
    SimulatedRoutes,
    SimulatedShims,
    SimulatedStore,
    SimulatedUser,
)
from simulation.volumes import REPORTS

SETTINGS = Settings(home=Path("/simulated"))
SCOPE = Scope(SETTINGS.account_id, "us-east-1")
GIB = 1 << 30
ROOT = f"arn:aws:iam::{SETTINGS.account_id}:root"
TICK_S = 0.05
CALL_TIMEOUT_S = 30.0
RESTART_S = 0.3
PATIENT = frozenset(
    {
        "apply_pending_modifications",
        "restart_stopped_db_instance",
        "await_secret_rotation",
        "purge_secret",
        "await_kms_key_rotation",
        "delete_kms_key",
    }
)
PATIENT_STEPS = frozenset({"await_time", "expire_retained", "await_opening"})
"""Of timers that also work, and of what waits for a person: they only wait if nothing is due soon."""
SOON_S = 10.0
SERVICES = {"rds": rds.operations, "ec2": ec2.operations, "secretsmanager": secretsmanager.operations,
            "kms": kms.operations}  # fmt: skip
TERRAFORM_TAKES = frozenset(
    """available storage-optimization stopped backing-up configuring-enhanced-monitoring configuring-log-exports
    configuring-iam-database-auth creating maintenance modifying moving-to-vpc rebooting renaming
    resetting-master-credentials starting stopping storage-full upgrading deleting""".split()
)


@cache
def authorities() -> CertificateAuthorities:
    """One for all worlds: its key takes a while to make."""
    with tempfile.TemporaryDirectory() as directory:
        return CertificateAuthorities(Path(directory), SimulatedClock())


class SimulatedServer:
    """The agent's side of the line: what it tells arrives at the control process, if both live."""

    def __init__(self, world: World, owner: Lifetime) -> None:
        self._world, self._owner = world, owner

    def notify(self, topic: str, data: Any) -> None:
        line = msgspec.json.encode(data)
        asyncio.get_running_loop().call_soon(self._deliver, topic, line, self._world.control)

    def _deliver(self, topic: str, line: bytes, control: Control | None) -> None:
        if self._owner.alive and control is not None and control.life.alive:
            control.fleet._notice(topic, msgspec.json.decode(line))


class SimulatedAgent(Agent):
    """The real agent; only its wiring to the machine is replaced."""

    def __init__(self, world: World) -> None:
        self.life = Lifetime("agent")
        host = world.host
        self._keepers: dict[str, Keeper] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._absent: dict[str, None] = {}
        self._drivers = {"postgres": SimulatedDriver(host, self.life)}  # type: ignore[dict-item]
        self._server = SimulatedServer(world, self.life)  # type: ignore[assignment]

        def given() -> None:
            with host.effects.one(self.life, "files.give"):
                pass

        self._instances = Instances(SimulatedLeases(host, self.life), world.clock)
        self._tools = KeeperTools(
            journal=SimulatedJournal(host, self.life),
            shims=SimulatedShims(host, self.life, self._process_ended),
            cgroups=ControlGroups("mainstay", root=host.directory / "cgroup"),
            routes=SimulatedRoutes(host, self.life),
            builds=world.builds,  # type: ignore[arg-type]
            user=SimulatedUser(pwd.getpwuid(0).pw_name, given=given),
            repositories=SimulatedRepositories(host, self.life),  # type: ignore[arg-type]
            clones=Clones(host.directory / "clones", host.directory / "nodes"),
            clock=world.clock,
            report=self._report,
            archiver=cast(Any, SimulatedArchiver),
        )
        self.job_runner = JobRunner(host, self.life, self._report_job)

    async def work(self) -> None:
        """As `Agent.run` does it."""
        self.keep_all()
        self.job_runner.resume()

    def jobs(self) -> list[JobStatus]:
        return self.job_runner.statuses()

    async def start_job(self, params: Any) -> None:
        """A small twin of the agent's repository jobs."""
        self.job_runner.start(msgspec.convert(params, RepositoryJob))

    async def forget_job(self, params: Any) -> None:
        self.job_runner.forget(params["job_id"])

    @property
    def keepers(self) -> dict[str, Keeper]:
        return self._keepers


class Line:
    """The control process's client: calls run in the agent's process, as over the socket."""

    def __init__(self, world: World, owner: Lifetime) -> None:
        self._world, self._owner = world, owner

    async def call(self, method: str, params: Any = None, *, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        request = msgspec.json.encode(params)
        with self._world.effects.one(self._owner, f"fleet.{method}"):
            agent = await self._connected(timeout_s)
            task = agent.life.run(getattr(agent, method)(msgspec.json.decode(request)))
            await asyncio.wait({task})
            if not agent.life.alive or task.cancelled():
                raise Transient("agent.sock went away", retry_after_s=0.2)
            error = task.exception()
            if error is not None and not isinstance(error, MainstayError):
                raise Transient(f"{type(error).__name__}: {error}", retry_after_s=1.0)
            return task.result()

    async def _connected(self, timeout_s: float) -> SimulatedAgent:
        for _ in range(int(timeout_s / TICK_S)):
            agent = self._world.agent
            if agent is not None and agent.life.alive:
                return agent
            await asyncio.sleep(TICK_S)
        raise Transient("agent.sock did not answer")


class Control:
    """The control process: real workers, handlers and fleet on the simulated store and line."""

    def __init__(self, world: World) -> None:
        self.life = Lifetime("control")
        self._world = world
        self.store = SimulatedStore(world.directory / "store.sqlite", world.effects, self.life)
        self.fleet = RpcFleet(Path("agent.sock"), self._node_changed, lambda subject: self.worker.wake(subject))
        self.fleet._client = Line(world, self.life)  # type: ignore[assignment]
        self.vault = Vault(b"k" * 32, SeededRandomness(7))
        registry = Engines(world.builds, {"postgres": PostgresqlRules(lambda _build: DEFINITIONS)})  # type: ignore[arg-type]
        self.tools = Tools(
            store=self.store,
            fleet=self.fleet,
            proxies=cast(Any, None),  # nobody makes a DB proxy here
            clock=world.clock,
            randomness=SeededRandomness(8),
            settings=SETTINGS,
            engines=registry,
            certificates=authorities(),
            vault=self.vault,
        )
        self.worker = Worker(PROGRAMS, self.tools)
        self.pusher = AccessListPusher(self.store, world.clock, self.worker)
        self.volumes = VolumeKeeper(self.tools)
        self.keys = KeyWatcher(self.store, world.clock, self.volumes, self.worker.wake)
        self.collaborators: dict[type, Any] = {
            Engines: registry,
            CertificateAuthorities: authorities(),
            Fleet: self.fleet,
            Vault: self.vault,
            HostCapacity: HostCapacity(memory_bytes=64 * GIB, vcpus=16),
            AccessListListener: self.pusher,
            KeyStateListener: self.keys,
        }

    def _node_changed(self, dbi_resource_id: str) -> None:
        self.volumes.look(dbi_resource_id)
        self.worker.wake(f"db:{dbi_resource_id}")

    def start(self) -> None:
        self.life.run(self.worker.run())
        self.life.run(self.pusher.run())
        self.life.run(self.volumes.run())
        self.life.run(self.keys.run())

    def connected(self, agent: SimulatedAgent | None) -> None:
        """The line to this agent is up, or (None) down."""
        self.fleet._state(agent is not None)
        if agent is not None:
            self.fleet._notice("volume_drivers", msgspec.to_builtins(REPORTS))
            self.fleet._notice("nodes", msgspec.json.decode(msgspec.json.encode(agent.statuses())))
            self.fleet._notice("jobs", msgspec.json.decode(msgspec.json.encode(agent.jobs())))


class World:
    """See the module. `directory` holds the store and the agent's files; `host` what runs."""

    def __init__(self, directory: Path, clock: SimulatedClock, *, seed: int = 1) -> None:
        self.directory = directory
        self.clock = clock
        self.effects = Effects()
        self.host = Host(directory, clock, self.effects)
        self.builds = InstalledBuilds("17.5", "17.6")
        self.control: Control | None = None
        self.agent: SimulatedAgent | None = None
        self.words: list[str] = []
        self._seed = seed
        self._calls = 0

    def up(self) -> None:
        """Starts what does not live."""
        started = False
        if self.control is None or not self.control.life.alive:
            if self.control is not None:
                self.control.store.close()
            self.control = Control(self)
            self.control.start()
            started = True
        if self.agent is None or not self.agent.life.alive:
            self.agent = SimulatedAgent(self)
            self.agent.life.run(self.agent.work())
            started = True
        if started:
            asyncio.get_running_loop().call_soon(self._connect)

    def _connect(self) -> None:
        if self.control and self.agent and self.control.life.alive and self.agent.life.alive:
            self.control.connected(self.agent)

    def noticed_deaths(self) -> bool:
        """Whether a process is dead; a living control process learns of the agent's death."""
        assert self.control is not None and self.agent is not None
        if self.control.life.alive and not self.agent.life.alive:
            self.control.connected(None)
        return not (self.control.life.alive and self.agent.life.alive)

    def kill(self, name: str) -> None:
        """SIGKILL to "control" or "agent"."""
        self.living(name).kill()
        self.noticed_deaths()

    def living(self, name: str) -> Lifetime:
        assert self.control is not None and self.agent is not None
        return self.control.life if name == "control" else self.agent.life

    async def first_start(self) -> None:
        """What control does at its first start."""
        self.up()
        assert self.control is not None
        with self.control.store.transaction() as tx:
            ec2.ensure_default_vpc(tx, SCOPE, SETTINGS, SeededRandomness(5), self.clock)

    async def call(self, operation: str, *, service: str = "rds", region: str = SCOPE.region, **request: Any) -> Any:
        """An API call as a patient client makes it: repeated, if the service died before or is not ready."""
        self._calls += 1
        while True:
            assert self.control is not None
            control, before = self.control, self.control.store.commits
            try:
                return self.attempt(operation, service, request, self._seed * 1000 + self._calls, region)
            except ApiError as error:
                if error.shape != "ServiceUnavailable":
                    raise
                await self.tick()
            except Killed:
                if control.store.commits > before:
                    return None
                await self.revive()
                await self.settle()  # until the agent has reported again, an instance counts as starting

    def attempt(
        self, operation: str, service: str, request: dict[str, Any], seed: int, region: str = SCOPE.region
    ) -> Any:
        """One call. The same seed draws the same identifiers."""
        control = self.control
        assert control is not None
        with control.store.transaction() as tx:
            call = Call(
                caller=Caller(kind="root", account_id=SCOPE.account_id, arn=ROOT, user_id="root", principal="root",
                              access_key_id="AKIA"),
                scope=Scope(SCOPE.account_id, region), tx=tx, clock=self.clock, randomness=SeededRandomness(seed),
                settings=SETTINGS,
                collaborators=control.collaborators,
            )  # fmt: skip
            result = SERVICES[service].built[operation].handler(call, request)
        control.worker.wake()
        return result

    def describe(self) -> list[dict[str, Any]]:
        """DescribeDBInstances, without counting as an effect."""
        control = self.control
        assert control is not None
        with control.store.read() as view:
            call = Call(
                caller=Caller(kind="root", account_id=SCOPE.account_id, arn=ROOT, user_id="root", principal="root",
                              access_key_id="AKIA"),
                scope=SCOPE, tx=view, clock=self.clock, randomness=SeededRandomness(1), settings=SETTINGS,
                collaborators=control.collaborators,
            )  # fmt: skip
            shown: list[dict[str, Any]] = rds.operations.built["DescribeDBInstances"].handler(call, {})["DBInstances"]  # type: ignore[index]
        return shown

    def jobs(self) -> list[Job]:
        assert self.control is not None
        with self.control.store.read() as view:
            return view.jobs()

    async def tick(self, seconds: float = TICK_S) -> None:
        """Lets time pass, looks at every status word, and restarts what has died."""
        await asyncio.sleep(seconds)
        if self.noticed_deaths():
            await self.revive()
        self.words += [str(one["DBInstanceStatus"]) for one in self.describe()]

    async def revive(self) -> None:
        """The supervisor starts what has died."""
        self.noticed_deaths()
        await asyncio.sleep(RESTART_S)
        self.up()

    async def settle(self, limit_s: float = 1800.0) -> None:
        """Until no workflow but the patient ones is left and every node agrees with its spec."""
        until = self.clock.monotonic() + limit_s
        quiet = 0
        while quiet < 2:  # twice, so that the control process has heard of it too
            await self.tick()
            quiet = quiet + 1 if not self.noticed_deaths() and self._settled() else 0
            assert self.clock.monotonic() < until, f"does not converge: {self.jobs()} {self.statuses()}"

    def statuses(self) -> list[Any]:
        assert self.agent is not None
        return self.agent.statuses()

    def _settled(self) -> bool:
        soon = self.clock.wall() + SOON_S
        if any(
            job.program not in PATIENT and (job.step not in PATIENT_STEPS or job.due_at < soon) for job in self.jobs()
        ):
            return False
        phases = (NodePhase.RUNNING, NodePhase.STOPPED)
        return all(
            (status.settled_generation >= status.generation and status.phase in phases) or status.fatal
            for status in self.statuses()
        )

    async def down(self) -> None:
        """Kills both processes and lets go of the store."""
        assert self.control is not None and self.agent is not None
        self.control.life.kill()
        self.agent.life.kill()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.control.store.close()

    def copied_to(self, directory: Path, clock: SimulatedClock) -> World:
        """Another world where everything on disk and every engine is as here; both processes of this one are down."""
        shutil.copytree(self.directory, directory, dirs_exist_ok=True)
        world = World(directory, clock, seed=self._seed + 1)
        world.host.disks = {name: disk.copy() for name, disk in self.host.disks.items()}
        world.host.engines = {node_id: copy(engine) for node_id, engine in self.host.engines.items()}
        for engine in world.host.engines.values():
            engine.ready_at = clock.monotonic()
            engine.volume = directory / engine.volume.relative_to(self.directory)
            world.host.replace_server(engine)
        world.host.routes = dict(self.host.routes)
        world.host.storage = self.host.storage.copy()
        world.host._pids = self.host._pids
        return world
