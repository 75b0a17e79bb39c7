"""What the control process sees of its agent, over a real socket: complete, current, or plainly away."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mainstay.control.fleet import RpcFleet
from mainstay.host.rpc import RpcServer
from mainstay.model.errors import Transient
from mainstay.model.node import NodePhase, NodeRole, NodeStatus
from mainstay.model.repository_job import JobKind, JobPhase, JobStatus, RepositoryJob, RepositoryRef
from mainstay.model.volume import VolumeDriverReport


def status(node_id: str, phase: NodePhase = NodePhase.RUNNING) -> NodeStatus:
    return NodeStatus(
        node_id=node_id, dbi_resource_id=f"db-{node_id}", db_instance_identifier="db1", role=NodeRole.PRIMARY,
        availability_zone="us-east-1a", phase=phase, generation=1,
    )  # fmt: skip


class AgentSocket:
    """The agent's side: it tells all its nodes to whoever connects."""

    def __init__(self, path: Path) -> None:
        self.nodes: list[NodeStatus] = []
        self.jobs: list[JobStatus] = []
        self.calls: list[tuple[str, Any]] = []

        def answering(name: str, answer: Any) -> Any:
            async def method(params: Any) -> Any:
                self.calls.append((name, params))
                return answer

            return method

        methods = {
            "list_logs": answering("list_logs", [{"name": "a"}]),
            "read_log": answering("read_log", {"data": "x"}),
            "lock_node": answering("lock_node", None),
            "unlock_node": answering("unlock_node", None),
            "start_job": answering("start_job", None),
            "forget_job": answering("forget_job", None),
        }
        self.server = RpcServer(path, methods, on_connect=self._all)

    def _all(self) -> list[dict[str, Any]]:
        jobs = {"topic": "jobs", "data": msgspec.to_builtins(self.jobs)}
        return [jobs, {"topic": "nodes", "data": msgspec.to_builtins(self.nodes)}]

    def tell_job(self, one: JobStatus) -> None:
        self.server.notify("job", msgspec.to_builtins(one))

    def tell(self, one: NodeStatus) -> None:
        self.server.notify("node", msgspec.to_builtins(one))


async def until(condition: Any) -> None:
    async with asyncio.timeout(5.0):
        while not condition():
            await asyncio.sleep(0.005)


async def test_observations_follow_the_agent_and_an_absent_agent_is_no_absent_node(tmp_path: Path) -> None:
    changed: list[str] = []
    fleet = RpcFleet(tmp_path / "agent.sock", changed.append)
    with pytest.raises(Transient):
        fleet.observe("a")
    assert fleet.last_seen("a") is None

    agent = AgentSocket(tmp_path / "agent.sock")
    agent.nodes = [status("a")]
    await agent.server.start()
    fleet.start()
    await until(lambda: fleet.connected)
    assert fleet.observe("a") == status("a") and fleet.observe("b") is None
    assert changed == ["db-a"]

    agent.tell(status("b", NodePhase.CREATING))
    agent.tell(status("a", NodePhase.STOPPED))
    agent.server.notify("gone", "b")
    agent.server.notify("gone", "unknown")
    await until(lambda: len(changed) == 4)
    assert fleet.observe("a") == status("a", NodePhase.STOPPED) and fleet.observe("b") is None

    assert await fleet.list_logs("a") == [{"name": "a"}]
    assert await fleet.read_log("a", "n", "0", 5) == {"data": "x"}
    assert agent.calls[1] == ("read_log", {"node_id": "a", "name": "n", "marker": "0", "lines": 5})

    await agent.server.stop()
    await until(lambda: not fleet.connected)
    with pytest.raises(Transient):
        fleet.observe("a")
    assert fleet.last_seen("a") == status("a", NodePhase.STOPPED), "still shown, never decided upon"

    successor = AgentSocket(tmp_path / "agent.sock")
    successor.nodes = [status("c")]
    await successor.server.start()
    await until(lambda: fleet.connected)
    assert fleet.observe("a") is None and fleet.observe("c") == status("c")
    assert changed[4:] and set(changed[4:]) == {"db-a", "db-c"}, "those that have gone are told of too"
    await fleet.stop()
    await successor.server.stop()
    await asyncio.sleep(0.01)


async def test_keys_go_to_the_agent_and_what_its_host_can_do_is_remembered(tmp_path: Path) -> None:
    agent = AgentSocket(tmp_path / "agent.sock")
    await agent.server.start()
    fleet = RpcFleet(tmp_path / "agent.sock", lambda _: None)
    fleet.start()
    await until(lambda: fleet.connected)
    assert fleet.volume_drivers() is None
    image = VolumeDriverReport(driver="image", encrypted=True, sized=True, usable=False, reason="no loop devices")
    agent.server.notify("volume_drivers", msgspec.to_builtins((image,)))
    await until(lambda: fleet.volume_drivers() is not None)
    agent.server.notify("volume_drivers", None)
    await fleet.lock("a")
    await fleet.unlock("a", "00" * 32)
    assert fleet.volume_drivers() == (image,)
    assert agent.calls == [("lock_node", {"node_id": "a"}), ("unlock_node", {"node_id": "a", "key": "00" * 32})]
    await fleet.stop()
    await agent.server.stop()


async def test_jobs_are_seen_as_the_agent_tells_them_and_wake_who_waits(tmp_path: Path) -> None:
    woken: list[str] = []
    agent = AgentSocket(tmp_path / "agent.sock")
    agent.jobs = [JobStatus(job_id="j1", subject="snapshot:a", phase=JobPhase.RUNNING, bytes_done=1, bytes_total=4)]
    await agent.server.start()
    fleet = RpcFleet(tmp_path / "agent.sock", lambda _: None, woken.append)
    fleet.start()
    await until(lambda: fleet.connected)
    seen = fleet.observe_job("j1")
    assert seen is not None and seen.percent == 25 and woken == ["snapshot:a"]
    agent.tell_job(JobStatus(job_id="j1", subject="snapshot:a", phase=JobPhase.DONE))
    await until(lambda: len(woken) == 2)
    done = fleet.observe_job("j1")
    assert done is not None and done.percent == 100
    ref = RepositoryRef(prefix="p", data_key="00" * 32)
    await fleet.start_job(
        RepositoryJob(job_id="j2", kind=JobKind.DESTROY, subject="x", engine="postgres", repository=ref)
    )
    await fleet.forget_job("j1")
    assert fleet.observe_job("j1") is None
    assert [name for name, _params in agent.calls] == ["start_job", "forget_job"]
    assert "00" * 32 not in repr(ref)
    await fleet.stop()
    await agent.server.stop()
    with pytest.raises(Transient):
        fleet.observe_job("j2")


async def test_what_a_new_agent_has_not_looked_at_yet_is_shown_as_it_was(tmp_path: Path) -> None:
    fleet = RpcFleet(tmp_path / "agent.sock", lambda _: None)
    known, unlooked = status("a"), msgspec.structs.replace(status("a", NodePhase.STARTING), looked=False)
    for told in (known, unlooked):
        fleet._notice("nodes", msgspec.to_builtins([told]))
    assert (fleet.last_seen("a"), fleet.observe("a")) == (known, unlooked)
    fleet._notice("node", msgspec.to_builtins(unlooked))
    assert fleet.last_seen("a") == known
    ended = status("a", NodePhase.STARTING)
    fleet._notice("node", msgspec.to_builtins(ended))
    assert fleet.last_seen("a") == fleet.observe("a") == ended
    fleet._notice("nodes", msgspec.to_builtins([msgspec.structs.replace(status("b"), looked=False)]))
    assert fleet.last_seen("a") is None and fleet.last_seen("b") == fleet.observe("b")
    fleet._notice("gone", "b")
    assert fleet.last_seen("b") is None
