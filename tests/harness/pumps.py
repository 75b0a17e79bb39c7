"""Pumps in both of their forms, for tests that speak with blocking sockets."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from harness.service import eventually
from mainstay.endpoint.carrier import Carrier, Tag
from mainstay.endpoint.pump_process import PumpProcess
from mainstay.endpoint.pump_thread import PumpThread

TIMEOUT_S = 120.0
Form = Literal["thread", "process"]
FORMS: tuple[Form, ...] = ("thread", "process")
TAG = Tag("db", 1, ("127.0.0.1", 1))
T = TypeVar("T")


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of one TCP connection, blocking, with a time limit."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = socket.create_connection(listener.getsockname(), timeout=TIMEOUT_S)
        right, _ = listener.accept()
        right.settimeout(TIMEOUT_S)
        return left, right


def carried_pair(
    pair: Callable[[], tuple[socket.socket, socket.socket]] = tcp_pair,
) -> tuple[tuple[socket.socket, socket.socket], tuple[socket.socket, socket.socket]]:
    """The outer ends of a connection through a pump, the client's and the engine's, and the inner ones for the pump."""
    client, inner_client = pair()
    engine, inner_engine = pair()
    inner_client.setblocking(False)
    inner_engine.setblocking(False)
    return (client, engine), (inner_client, inner_engine)


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """The process does nothing for the time of the block; it may die in it."""
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: state_of(pid) == "T", interval_s=0.005)
    try:
        yield
    finally:
        if state_of(pid) == "T":
            os.kill(pid, signal.SIGCONT)


def state_of(pid: int) -> str:
    """The letter of proc(5); "" if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def descriptors_of(pid: int) -> int:
    """How many the process has."""
    return len(os.listdir(f"/proc/{pid}/fd"))


class RunningPump:
    """A pump, the event loop that it is used from, and the outer ends of what it carries."""

    def __init__(self, form: Form) -> None:
        self.closed: list[Tag] = []
        self._numbers = itertools.count(1)
        self._ends: list[socket.socket] = []
        self._loop = asyncio.new_event_loop()
        self._runner = threading.Thread(target=self._loop.run_forever)
        self._runner.start()
        try:
            self.carrier = self.call(self._start(form))
        except BaseException:
            self._end_loop()
            raise

    async def _start(self, form: Form) -> Carrier:
        if form == "thread":
            thread = PumpThread(self.closed.append)
            thread.start()
            return thread
        process = PumpProcess(self.closed.append, lambda _: None, min(os.sched_getaffinity(0)))
        assert await process.ready()
        return process

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """What comes of it on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(TIMEOUT_S)

    def add(self, client: socket.socket, engine: socket.socket, tag: Tag = TAG) -> None:
        """Gives the pump the inner ends of a connection."""

        async def add() -> None:
            self.carrier.add(client, engine, next(self._numbers), tag)

        self.call(add())

    def connect(self, tag: Tag = TAG, kind: type[socket.socket] = socket.socket) -> tuple[socket.socket, socket.socket]:
        """The client's and the engine's end of one carried connection; `kind` is what the pump has of the client."""
        ends, (client, engine) = carried_pair()
        self._ends += ends
        inner = kind(fileno=client.detach())
        inner.setblocking(False)
        self.add(inner, engine, tag)
        return ends

    def cut(self, doomed: Callable[[Tag], bool]) -> int:
        """See `Carrier`."""
        return self.call(self.carrier.cut(doomed))

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """What happens meanwhile, the pump sees all at once."""
        if isinstance(self.carrier, PumpProcess):
            with frozen(self.carrier.pid):
                yield
            return
        assert isinstance(self.carrier, PumpThread)
        reached, gate = threading.Event(), threading.Event()

        def wait() -> None:
            reached.set()
            gate.wait(TIMEOUT_S)

        self.carrier._order(wait)
        assert reached.wait(TIMEOUT_S)
        try:
            yield
        finally:
            gate.set()

    def cpu_s(self) -> float:
        """What the pump has taken of a core (proc_pid_schedstat(5))."""
        if isinstance(self.carrier, PumpProcess):
            task = str(self.carrier.pid)
        else:
            assert isinstance(self.carrier, PumpThread)
            task = f"self/task/{self.carrier._runner.native_id}"
        return int(Path("/proc", task, "schedstat").read_text().split()[0]) / 1e9

    def descriptors(self) -> int:
        """Of this process and the pump's."""
        child = descriptors_of(self.carrier.pid) if isinstance(self.carrier, PumpProcess) else 0
        return descriptors_of(os.getpid()) + child

    def stop_pump(self) -> None:
        """Ends the pump alone."""
        self.call(self.carrier.stop())

    def stop(self) -> None:
        """Ends everything. The pump may have been stopped before."""
        if self._runner.is_alive():
            if not isinstance(self.carrier, PumpThread) or self.carrier._runner.is_alive():
                self.stop_pump()
            self._end_loop()
        for end in self._ends:
            end.close()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._runner.join()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
