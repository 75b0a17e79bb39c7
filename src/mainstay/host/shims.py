"""The agent's side of the shims: launch an engine under one, find it again after a restart, signal it, hear its end."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from mainstay.host.guardian import process_ended
from mainstay.model.errors import Transient

SHIM = Path(__file__).parent.parent / "shim" / "__main__.py"
LAUNCH_TIMEOUT_S = 5.0
_unreaped: set[subprocess.Popen[bytes]] = set()
"""Shims outlive whoever launched them: an agent that ends must not wait for them."""

log = structlog.get_logger()


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """How to start an engine process. `tag` is kept by the shim and given back: what the process was started for.

    `writable`: directories and files; it may write there and, where the kernel can confine it, nowhere else. Without
    any it is not confined.
    """

    argv: tuple[str, ...]
    cwd: Path
    output: Path
    env: dict[str, str] = {}
    user_id: int | None = None
    group_id: int | None = None
    cgroups: tuple[str, ...] = ()
    writable: tuple[Path, ...] = ()
    tag: dict[str, Any] = {}


class EngineProcess(msgspec.Struct, frozen=True, kw_only=True):
    """A running engine process as its shim reports it. `started_at` is epoch seconds."""

    pid: int
    started_at: float
    tag: dict[str, Any]


class Shims(Protocol):
    """Engine processes by node id. Callbacks run in the event loop: `on_exit(node_id, exit_code)`."""

    async def adopt(self, node_id: str) -> EngineProcess | None:
        """Connects to the node's shim if one runs, after an agent restart."""

    async def launch(self, node_id: str, launch: Launch) -> EngineProcess:
        """Starts the engine under a new shim. Raises `Transient` if it did not come up."""

    def signal(self, node_id: str, number: int) -> None:
        """Sends a signal to the engine process; one that has ended is no error."""


class SystemShims:
    """Real shims, one Unix socket each in `directory`."""

    def __init__(self, directory: Path, on_exit: Callable[[str, int | None], None]) -> None:
        self._directory = directory
        self._on_exit = on_exit
        self._writers: dict[str, asyncio.StreamWriter] = {}
        self._watchers: set[asyncio.Task[None]] = set()

    async def adopt(self, node_id: str) -> EngineProcess | None:
        """See `Shims`. A socket nobody listens on is left from a shim that was killed; the next shim replaces it.

        It is not ours to remove: by the time we do, the next shim's own may be in its place.
        """
        path = self._directory / f"{node_id}.sock"
        try:
            reader, writer = await asyncio.open_unix_connection(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        try:
            line = await reader.readline()
        except ConnectionError:  # the shim ended without a word: its program could not be executed
            line = b""
        if not line:
            writer.close()
            return None
        state = json.loads(line)
        if state["state"] != "running":
            writer.close()
            return None
        self._writers[node_id] = writer
        task = asyncio.create_task(self._watch(node_id, reader, writer))
        self._watchers.add(task)
        task.add_done_callback(self._watchers.discard)
        return EngineProcess(pid=state["pid"], started_at=state["started_at"], tag=state["tag"])

    async def launch(self, node_id: str, launch: Launch) -> EngineProcess:
        """See `Shims`."""
        message = {
            "argv": launch.argv,
            "env": launch.env,
            "cwd": str(launch.cwd),
            "socket": str(self._directory / f"{node_id}.sock"),
            "output": str(launch.output),
            "user": launch.user_id,
            "group": launch.group_id,
            "cgroups": launch.cgroups,
            "writable": [str(path) for path in launch.writable],
            "tag": launch.tag,
        }
        process = _spawn(json.dumps(message).encode())
        reaper = asyncio.create_task(_reap(process))
        self._watchers.add(reaper)
        reaper.add_done_callback(self._watchers.discard)
        deadline = asyncio.get_running_loop().time() + LAUNCH_TIMEOUT_S
        while asyncio.get_running_loop().time() < deadline:
            if (found := await self.adopt(node_id)) is not None:
                return found
            if process.poll() is not None:
                break
            await asyncio.sleep(0.01)
        raise Transient(f"the engine of {node_id} ended at once", hint=f"See {launch.output}.")

    def signal(self, node_id: str, number: int) -> None:
        """See `Shims`."""
        writer = self._writers.get(node_id)
        if writer is not None:
            writer.write(json.dumps({"signal": number}).encode() + b"\n")

    async def _watch(self, node_id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        exit_code: int | None = None
        try:
            while line := await reader.readline():
                state = json.loads(line)
                if state["state"] == "exited":
                    exit_code = state["exit_code"]
        except ConnectionError:
            log.warning("shim.connection_lost", node_id=node_id)
        finally:
            writer.close()
        if self._writers.get(node_id) is writer:
            del self._writers[node_id]
        self._on_exit(node_id, exit_code)


def _spawn(message: bytes) -> subprocess.Popen[bytes]:
    # The base interpreter without site: the shim lives as long as the engine, so every megabyte counts.
    process = subprocess.Popen(
        [os.path.realpath(sys.executable), "-I", "-S", str(SHIM)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.write(message)
            process.stdin.close()
    return process


async def _reap(process: subprocess.Popen[bytes]) -> None:
    """Not in a thread: there are few, and a shim lives as long as its engine."""
    _unreaped.add(process)
    await process_ended(process.pid)
    process.wait()
    _unreaped.discard(process)
