"""The workers that serve a host's proxies, seen from the coordinator: their processes, their two connections (calls,
and the channel of leases), and the listening sockets that they share.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import structlog

from mainstay.host.guardian import process_ended
from mainstay.host.layout import lock_path, worker_name
from mainstay.host.locks import holder
from mainstay.host.rpc import RpcClient
from mainstay.model.errors import Transient
from mainstay.model.proxy import ProxyStatus
from mainstay.proxy.channel import Channel, Crowd, Hello, Kept, Listen, Listening, Message, Settled
from mainstay.proxy.service import listen
from mainstay.proxy.worker import COORDINATOR_SOCKET
from mainstay.settings import PROXY_WORKERS_MAX, Settings

RESTART_PAUSE_S = (0.0, 0.2, 0.5, 1.0)
STABLE_AFTER_S = 20.0
SILENT_S = 15.0
"""A worker that runs and does not tell what it holds for so long is killed: the others wait for it."""

END_TIMEOUT_S = 10.0
PROCESS = "proxy"
log = structlog.get_logger()


class WorkerSeen:
    """A worker as the coordinator knows it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid = 0
        self.channel: Channel | None = None
        self.rpc: RpcClient | None = None
        self.statuses: dict[str, ProxyStatus] = {}
        self.clients = 0
        self.settled = False


class Overseer(Protocol):
    """Who is told of the workers."""

    def joined(self, worker: WorkerSeen) -> None:
        """It is there, or there again; next it says what it holds."""

    def said(self, worker: WorkerSeen, message: Message, carried: socket.socket | None) -> None:
        """One message, whose descriptor is the overseer's now."""

    def settled(self, worker: WorkerSeen) -> None:
        """It has said what it holds."""

    def died(self, worker: WorkerSeen) -> None:
        """Its process has ended."""

    def all_known(self) -> None:
        """From now on it is known of every worker what it holds."""

    def noticed(self, worker: WorkerSeen, topic: str, data: Any) -> None:
        """A notice, as `ProxyHost` gives them."""

    async def connected(self, worker: WorkerSeen) -> None:
        """It can be called."""


class Workforce:
    """`count` workers, and those that are left of before."""

    def __init__(self, settings: Settings, count: int, overseer: Overseer) -> None:
        self.seen: dict[int, WorkerSeen] = {}
        self._settings = settings
        self._count = count
        self._overseer = overseer
        running = {number: holder(self._lock(number)) for number in range(1, PROXY_WORKERS_MAX + 1)}
        self.expected = {number for number, pid in running.items() if pid is not None}
        """Workers of before that have not told yet what they hold."""

        self._sockets: dict[tuple[str, int], socket.socket] = {}
        self._mean = -1
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def start(self) -> None:
        """Begins to keep them running."""
        log.info("proxy.workers", count=self._count, there=sorted(self.expected))
        self._accept()
        for number in range(1, self._count + 1):
            self._spawn(self._keep(number))
        for number in self.expected:
            if number > self._count:
                self._spawn(self._see_out(number))
        self._spawn(self._end_the_silent())

    async def stop(self) -> None:
        """Ends them all."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await end_workers(self._settings)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def tell(self, number: int, message: Message, carried: socket.socket | None = None) -> None:
        """Tells a worker something; nothing if it is away, as it will say then what it has."""
        worker = self.seen.get(number)
        if worker is not None and worker.channel is not None:
            worker.channel.send(message, carried)

    def tell_crowd(self) -> None:
        """Tells every worker how many clients one has on an average."""
        settled = [one for one in self.seen.values() if one.settled]
        mean = sum(one.clients for one in settled) // max(1, len(settled))
        if mean != self._mean:
            self._mean = mean
            for worker in settled:
                self.tell(worker.number, Crowd(mean))

    def close_sockets(self, wanted: set[tuple[str, int]]) -> None:
        """Keeps these addresses only."""
        for key in [key for key in self._sockets if key not in wanted]:
            self._sockets.pop(key).close()

    def _lock(self, number: int) -> Path:
        return lock_path(self._settings, worker_name(PROCESS, number))

    # Processes

    async def _keep(self, number: int) -> None:
        failures = 0
        while True:
            pid = holder(self._lock(number))
            child: subprocess.Popen[bytes] | None = None
            if pid is None:
                await asyncio.sleep(RESTART_PAUSE_S[min(failures, len(RESTART_PAUSE_S) - 1)])
                child = start_worker(number)
                pid = child.pid
            started = time.monotonic()
            worker = self.seen[number] = WorkerSeen(number)
            worker.pid = pid
            self._call(worker)
            await process_ended(pid)
            if child is not None:
                child.wait()
            await self._died(worker)
            lasted_s = time.monotonic() - started
            failures = 0 if lasted_s > STABLE_AFTER_S else failures + 1
            log.warning("proxy.worker_ended", worker=number, pid=pid, lasted_s=round(lasted_s, 1))

    async def _see_out(self, number: int) -> None:
        """A worker of before that is one too many."""
        pid = holder(self._lock(number))
        if pid is not None:
            worker = self.seen[number] = WorkerSeen(number)
            worker.pid = pid
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            await process_ended(pid)
            await self._died(worker)
        self._accounted_for(number)

    def _call(self, worker: WorkerSeen) -> None:
        """Keeps a connection to the worker's own socket."""

        def state(connected: bool) -> None:
            if connected:
                self._spawn(self._overseer.connected(worker))

        path = self._settings.runtime / f"{worker_name(PROCESS, worker.number)}.sock"
        rpc = RpcClient(path, on_notice=lambda topic, data: self._overseer.noticed(worker, topic, data), on_state=state)
        worker.rpc = rpc
        rpc.start()

    async def _died(self, worker: WorkerSeen) -> None:
        if worker.channel is not None:
            worker.channel.close()
        self.seen.pop(worker.number, None)
        self._overseer.died(worker)
        self._accounted_for(worker.number)
        if worker.rpc is not None:
            rpc, worker.rpc = worker.rpc, None
            await rpc.stop()

    def _accounted_for(self, number: int) -> None:
        """It is known what this worker holds. Only when that is known of all may something be granted."""
        if number in self.expected:
            self.expected.discard(number)
            if not self.expected:
                self._overseer.all_known()

    async def _end_the_silent(self) -> None:
        await asyncio.sleep(SILENT_S)
        for number in list(self.expected):
            pid = holder(self._lock(number))
            log.error("proxy.worker_silent", worker=number, pid=pid)
            if pid is None:
                self._accounted_for(number)
            else:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    # The channel

    def _accept(self) -> None:
        path = self._settings.runtime / COORDINATOR_SOCKET
        path.unlink(missing_ok=True)
        self._listening.setblocking(False)
        self._listening.bind(str(path))
        os.chmod(path, 0o600)
        self._listening.listen(PROXY_WORKERS_MAX * 2)
        asyncio.get_running_loop().add_reader(self._listening.fileno(), self._arrived)

    def _arrived(self) -> None:
        with suppress(BlockingIOError, ConnectionAbortedError):
            connection, _address = self._listening.accept()
            _Speaker(self, connection)

    def introduced(self, hello: Hello, channel: Channel) -> WorkerSeen | None:
        """A worker is there, or there again; None if that is not who it should be."""
        worker = self.seen.get(hello.worker)
        if worker is None or worker.pid != hello.pid:
            return None
        if worker.channel is not None:
            worker.channel.close()
        worker.channel, worker.settled = channel, False
        self._overseer.joined(worker)
        return worker

    def heard(self, worker: WorkerSeen, message: Message, carried: socket.socket | None) -> None:
        """One message of a worker that has introduced itself."""
        match message:
            case Crowd():
                worker.clients = message.clients
            case Listen():
                self._tell_socket(worker.number, message)
            case Kept() if carried is not None:
                kept = self._sockets.setdefault((message.address, message.port), carried)
                if kept is not carried:
                    carried.close()
            case Settled():
                worker.settled, self._mean = True, -1
                self._overseer.settled(worker)
                self._accounted_for(worker.number)
            case _:
                self._overseer.said(worker, message, carried)

    def _tell_socket(self, number: int, message: Listen) -> None:
        key = (message.address, message.port)
        try:
            if self.expected:
                raise Transient("other workers have not told yet where they listen")
            if key not in self._sockets:
                self._sockets[key] = listen(*key)
        except Transient as error:
            self.tell(number, Listening(*key, failure=error.message))
        else:
            self.tell(number, Listening(*key), self._sockets[key])


class _Speaker:
    """One channel: a worker's, once it has introduced itself."""

    def __init__(self, workforce: Workforce, connection: socket.socket) -> None:
        self._workforce = workforce
        self._worker: WorkerSeen | None = None
        self._channel = Channel(connection, self._heard, self._ended)

    def _heard(self, message: Message, carried: socket.socket | None) -> None:
        if self._worker is not None:
            self._workforce.heard(self._worker, message, carried)
            return
        if isinstance(message, Hello):
            self._worker = self._workforce.introduced(message, self._channel)
        if self._worker is None:
            self._channel.close()

    def _ended(self) -> None:
        if self._worker is not None and self._worker.channel is self._channel:
            self._worker.channel = None


def start_worker(number: int) -> subprocess.Popen[bytes]:
    """Starts a worker; what it logs goes where ours goes."""
    command = [sys.executable, "-m", "mainstay.proxy", "--worker", str(number)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)


async def end_workers(settings: Settings) -> None:
    """Ends every worker of this host, whoever has started it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        pids = [holder(lock_path(settings, worker_name(PROCESS, one))) for one in range(1, PROXY_WORKERS_MAX + 1)]
        for pid in [pid for pid in pids if pid is not None]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(END_TIMEOUT_S):
                for pid in [pid for pid in pids if pid is not None]:
                    await process_ended(pid)
