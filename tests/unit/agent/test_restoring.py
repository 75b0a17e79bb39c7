"""A restore is repeated after a kill beside what is left of the attempt before."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from mainstay.agent.restoring import Restoring
from mainstay.engines.node_files import NodeFiles
from mainstay.engines.postgresql.driver import PostgresqlDriver
from mainstay.host.processes import User
from mainstay.host.volumes.clones import Clones
from mainstay.model.engine import EngineBuild
from mainstay.model.node import RestoreSpec, RestoreTarget
from mainstay.model.repository_job import RepositoryRef

SPEC = RestoreSpec(repository=RepositoryRef(prefix="p", data_key="00"), backup_id="b", target=RestoreTarget())


def no_build() -> EngineBuild:
    raise AssertionError("PostgreSQL's files are not touched by its programs before it is started")


class Worker:
    """What restores: it writes two files, with a pause between that only `go_on` ends."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.destination = Path()

    async def restore(self, _restore: RestoreSpec, destination: Path, _user: User, _note: Any) -> None:
        self.destination = destination
        (destination / "first").write_text("1")
        await self.go_on.wait()
        (destination / "second").write_text("2")

    def empty(self) -> None:
        """What a worker does when it is told to stop."""
        for path in self.destination.glob("*"):
            path.unlink()


def restoring(root: Path, worker: Worker) -> Restoring:
    files = NodeFiles(root=root, sockets=root / "sockets")
    files.volume.mkdir(parents=True, exist_ok=True)
    repositories: Any = worker
    return Restoring(files, PostgresqlDriver(), repositories, Clones(root / "clones", root), User("me"))


async def test_the_worker_of_a_killed_agent_does_no_harm_to_the_next_attempt(tmp_path: Path) -> None:
    old, new = Worker(), Worker()
    killed = asyncio.create_task(restoring(tmp_path, old).copy(SPEC, no_build))
    while not old.destination.is_dir() or old.destination == Path():
        await asyncio.sleep(0.005)
    again = asyncio.create_task(restoring(tmp_path, new).copy(SPEC, no_build))
    while new.destination == Path():
        await asyncio.sleep(0.005)
    old.empty()
    new.go_on.set()
    await again
    old.empty()
    killed.cancel()
    await asyncio.gather(killed, return_exceptions=True)
    data = NodeFiles(root=tmp_path, sockets=tmp_path).data
    assert (data / "first").exists() and (data / "second").exists() and (data / "recovery.signal").exists()
    assert [path.name for path in data.parent.iterdir()] == ["data"], "nothing unfinished is left"


async def test_an_engine_that_starts_with_nothing_to_replay_shows_no_restore_any_more(tmp_path: Path) -> None:
    one = restoring(tmp_path, Worker())
    one._files.data.mkdir()
    one._since = asyncio.get_running_loop().time()
    one._note(5, 10)
    assert one.progress is not None and (one.progress.phase, one.progress.bytes_done) == ("files", 5)
    one.serve(SPEC)
    assert one.progress is None and not one.under_way


def test_only_what_another_start_will_not_change_ends_a_restore(tmp_path: Path) -> None:
    one = restoring(tmp_path, Worker())
    one._files.data.mkdir()
    (one._files.data / "recovery.signal").touch()
    log = one._files.logs / "error" / "postgresql.log"
    log.parent.mkdir(parents=True)
    log.write_text('LOG:  x\nFATAL:  could not restore file "000000010000000000000002" from archive: exit code 255\n')
    assert one.failure() == "", "it may ask again"
    log.write_text("FATAL:  recovery ended before configured recovery target was reached\nLOG:  x\n")
    assert one.failure() == "recovery ended before configured recovery target was reached"
    (one._files.data / "recovery.signal").unlink()
    assert one.failure() == "", "it has come to its target"
