"""Wiring of the agent process: RPC in from control, RPC out to the endpoint, one keeper per node."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import Any

import msgspec
import structlog

from mainstay.agent.instances import Instances
from mainstay.agent.jobs import Jobs
from mainstay.agent.journal import Journal
from mainstay.agent.keeper import Keeper
from mainstay.agent.local_snapshots import LocalSnapshots
from mainstay.agent.login_questions import LoginQuestions
from mainstay.agent.logs import list_logs, read_log
from mainstay.agent.repositories import SystemRepositories
from mainstay.agent.routes import EndpointRoutes
from mainstay.agent.tools import KeeperTools
from mainstay.engines.builds import Builds
from mainstay.engines.registry import drivers
from mainstay.host.cgroups import ControlGroups
from mainstay.host.clock import SystemClock
from mainstay.host.files import make_private_directory
from mainstay.host.leases import LocalLeases
from mainstay.host.processes import engine_user
from mainstay.host.randomness import SystemRandomness
from mainstay.host.rpc import RpcClient, RpcServer
from mainstay.host.shims import SystemShims
from mainstay.host.volumes import examine_drivers
from mainstay.host.volumes.clones import Clones
from mainstay.model.errors import Permanent
from mainstay.model.node import NodeSpec, NodeStatus, NodeTarget
from mainstay.model.repository_job import JobStatus, RepositoryJob
from mainstay.model.volume import VolumeDriverReport
from mainstay.settings import Settings

ABSENT_REMEMBERED_MAX = 10_000
LOGIN_TIMEOUT_S = 4.0
log = structlog.get_logger()


class Agent:
    """The nodes of this host."""

    def __init__(self, settings: Settings) -> None:
        runtime = settings.runtime
        make_private_directory(settings.home, mode=0o711)
        make_private_directory(settings.home / "agent", mode=0o711)
        make_private_directory(runtime / "shims")
        self._settings = settings
        self._volume_drivers: tuple[VolumeDriverReport, ...] | None = None
        self._keepers: dict[str, Keeper] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # Deleted nodes, oldest first: a delayed spec of before the deletion must not bring one back.
        self._absent: dict[str, None] = {}
        self._drivers = drivers()
        self._endpoint = RpcClient(runtime / "endpoint.sock", on_state=self._endpoint_state)
        self._control = RpcClient(runtime / "control.sock")
        user = engine_user(settings.engine_user)
        self._logins = LoginQuestions(self._ask_about_login, user)
        self._server = RpcServer(
            runtime / "agent.sock",
            {
                "put_node": self.put_node,
                "nodes": self.nodes,
                "list_logs": self.list_logs,
                "read_log": self.read_log,
                "start_job": self.start_job,
                "forget_job": self.forget_job,
                "ping": self.ping,
                "lock_node": self.lock_node,
                "unlock_node": self.unlock_node,
                "stop_engines": self.stop_engines,
            },
            on_connect=self._told_on_connect,
        )
        repositories = SystemRepositories(settings, SystemRandomness())
        clones = Clones(settings.home / "agent" / "clones", settings.home / "agent" / "nodes")
        clones.sweep()
        self._tools = KeeperTools(
            journal=Journal(settings.home / "agent" / "nodes", runtime / "nodes"),
            shims=SystemShims(runtime / "shims", self._process_ended),
            cgroups=ControlGroups(runtime.name),
            routes=EndpointRoutes(self._endpoint, "relay" if settings.endpoint_path == "relay" else "kernel"),
            builds=Builds(settings),
            repositories=repositories,
            clones=clones,
            user=user,
            clock=SystemClock(),
            report=self._report,
            logins=self._logins,
        )
        self._jobs = Jobs(
            repositories, LocalSnapshots(clones), self._drivers, self._leader_of, self._standby_of, self._tools.clock,
            self._report_job,
        )  # fmt: skip
        self._instances = Instances(LocalLeases(settings.home / "agent" / "leases"), self._tools.clock)

    async def run(self) -> None:
        """Until SIGTERM. Engines keep running."""
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        self.keep_all()
        self._endpoint.start()
        self._control.start()
        await self._server.start()
        log.info("agent.ready", nodes=len(self._keepers))
        examining = asyncio.create_task(self._examine_drivers())
        await ended.wait()
        await self._jobs.stop()
        examining.cancel()
        await self._server.stop()
        await self._endpoint.stop()
        await self._logins.stop()
        await self._control.stop()
        await self._instances.stop()
        for task in self._tasks.values():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def keep_all(self) -> None:
        """Every node of before. All are known before anything is decided about any of them."""
        specs = self._tools.journal.specs()
        for spec in specs:
            self._keepers[spec.node_id] = self._keeper(spec)
        for keeper in list(self._keepers.values()):
            self._begin(keeper)

    def statuses(self) -> list[NodeStatus]:
        """What is seen of every node."""
        return [keeper.status() for keeper in self._keepers.values()]

    async def ping(self, _params: Any) -> bool:
        """The agent is alive."""
        return True

    async def nodes(self, _params: Any) -> Any:
        """Every node's status."""
        return msgspec.to_builtins(self.statuses())

    async def put_node(self, params: Any) -> None:
        """Takes a spec: remembers it durably, then works on it. An older generation than the known one is ignored."""
        try:
            spec = msgspec.convert(params, NodeSpec)
        except msgspec.ValidationError as error:
            raise Permanent(f"not a node spec: {error}") from error
        keeper = self._keepers.get(spec.node_id)
        if keeper is None:
            if spec.target is NodeTarget.ABSENT:
                self._remember_absent(spec.node_id)
            elif spec.node_id not in self._absent:
                self._tools.journal.write_spec(spec)
                self._keep(spec)
                # Before the answer, so that nobody who asks next takes it for a node that is not there.
                self._report(self._keepers[spec.node_id].status())
        elif spec.generation > keeper.spec.generation:
            self._tools.journal.write_spec(spec)
            keeper.update(spec)
        else:
            keeper.take_keys(spec)

    async def lock_node(self, params: Any) -> None:
        """Takes the key of the node's volume away: {"node_id"}. Its engine gets errors at once and is stopped then."""
        await self._keepers[self._known(params["node_id"])].lock()

    async def unlock_node(self, params: Any) -> None:
        """Opens the node's volume: {"node_id", "key"}; its engine is started then. A wrong key is refused."""
        await self._keepers[self._known(params["node_id"])].unlock(str(params["key"]))

    async def stop_engines(self, _params: Any) -> None:
        """Stops every engine of this host, for `mainstay down`. Their specs stay: the next agent starts them again."""
        await self._jobs.stop()
        await self._instances.stop()
        for task in self._tasks.values():
            task.cancel()
        # Who leads goes first, so that its shutdown can hand its standby and replicas everything.
        for wave in self._instances.by_depth():
            await asyncio.gather(*(keeper.stop_now() for keeper in wave))

    async def start_job(self, params: Any) -> None:
        """Begins work on a repository; see `Jobs`."""
        try:
            job = msgspec.convert(params, RepositoryJob)
        except msgspec.ValidationError as error:
            raise Permanent(f"not a repository job: {error}") from error
        self._jobs.start(job)

    async def forget_job(self, params: Any) -> None:
        """Ends a job; see `Jobs`."""
        await self._jobs.forget(params["job_id"])

    async def list_logs(self, params: Any) -> Any:
        """Log files of a node: [{"name", "last_written_ms", "size_bytes"}]."""
        return await asyncio.to_thread(list_logs, self._keepers[self._known(params["node_id"])].hands.files)

    async def read_log(self, params: Any) -> Any:
        """A portion of a log file."""
        files = self._keepers[self._known(params["node_id"])].hands.files
        return await asyncio.to_thread(read_log, files, params["name"], params.get("marker"), params.get("lines"))

    def _known(self, node_id: str) -> str:
        if node_id not in self._keepers:
            raise Permanent(f"no node {node_id!r} on this host")
        return node_id

    def _keeper(self, spec: NodeSpec) -> Keeper:
        keeper = Keeper(spec, self._drivers[spec.engine], self._tools, self._instances.leads)
        self._instances.add(keeper)
        return keeper

    def _begin(self, keeper: Keeper) -> None:
        self._tasks[keeper.spec.node_id] = asyncio.create_task(self._run(keeper))
        self._instances.begin(keeper.spec.dbi_resource_id)

    def _keep(self, spec: NodeSpec) -> None:
        keeper = self._keepers[spec.node_id] = self._keeper(spec)
        self._begin(keeper)

    async def _run(self, keeper: Keeper) -> None:
        node_id = keeper.spec.node_id
        while True:
            try:
                await keeper.run()
            except Exception:  # the outermost loop of a node: its failure must not take the others with it
                log.exception("keeper.failed", node_id=node_id)
                await asyncio.sleep(1.0)
                continue
            del self._keepers[node_id], self._tasks[node_id]
            await self._instances.remove(keeper)
            self._remember_absent(node_id)
            self._server.notify("gone", node_id)
            return

    def _remember_absent(self, node_id: str) -> None:
        self._absent[node_id] = None
        if len(self._absent) > ABSENT_REMEMBERED_MAX:
            del self._absent[next(iter(self._absent))]

    def _told_on_connect(self) -> list[dict[str, Any]]:
        """What whoever connects is told first; the nodes come last, since with them it is complete."""
        return [
            {"topic": "volume_drivers", "data": msgspec.to_builtins(self._volume_drivers)},
            {"topic": "jobs", "data": msgspec.to_builtins(self._jobs.statuses())},
            {"topic": "nodes", "data": msgspec.to_builtins(self.statuses())},
        ]

    async def _examine_drivers(self) -> None:
        """Finds out in the background which volumes this host can have: nobody waits for it but a new instance."""
        directory = self._settings.home / "agent"
        self._volume_drivers = await asyncio.to_thread(examine_drivers, directory)
        self._server.notify("volume_drivers", msgspec.to_builtins(self._volume_drivers))
        log.info("agent.volume_drivers", usable=[one.driver for one in self._volume_drivers if one.usable])

    def _report(self, status: NodeStatus) -> None:
        self._server.notify("node", msgspec.to_builtins(status))

    def _report_job(self, status: JobStatus) -> None:
        self._server.notify("job", msgspec.to_builtins(status))

    def _leader_of(self, node_id: str) -> Keeper | None:
        keeper = self._keepers.get(node_id)
        return None if keeper is None else self._instances.leader(keeper.spec.dbi_resource_id)

    def _standby_of(self, node_id: str) -> Keeper | None:
        keeper = self._keepers.get(node_id)
        return None if keeper is None else self._instances.standby(keeper.spec.dbi_resource_id)

    async def _ask_about_login(self, question: dict[str, Any]) -> bool:
        answer = await self._control.call("verify_instance_login", question, timeout_s=LOGIN_TIMEOUT_S)
        return answer["allowed"] is True

    def _process_ended(self, node_id: str, exit_code: int | None) -> None:
        if (keeper := self._keepers.get(node_id)) is not None:
            keeper.process_ended(exit_code)

    def _endpoint_state(self, connected: bool) -> None:
        if connected:
            for keeper in self._keepers.values():
                keeper.forget_route()
