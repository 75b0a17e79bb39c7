"""Calls between our processes on one machine: JSON lines over a Unix socket whose directory only we can enter.

A call is `{"id", "method", "params"}`, an answer `{"id", "result"}` or `{"id", "error", "hint", "retry_after_s"}`. The
other side may also send `{"topic", "data"}` at any time: a notice. Guarantees: a call ends with its result, with
`Permanent` (the method refused) or with `Transient` (the peer is away, too slow or asks to retry), never silently.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import structlog

from mainstay.model.errors import MainstayError, Permanent, Transient

MESSAGE_BYTES_MAX = 16 * 1024 * 1024
CALL_TIMEOUT_S = 30.0

Method = Callable[[Any], Awaitable[Any]]
log = structlog.get_logger()


class RpcServer:
    """Serves methods on a socket and pushes notices to everybody connected."""

    def __init__(
        self,
        path: Path,
        methods: dict[str, Method],
        *,
        on_connect: Callable[[], Sequence[dict[str, Any]]] | None = None,
    ):
        self._path = path
        self._methods = methods
        self._on_connect = on_connect
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listens; a stale socket of a dead predecessor is replaced."""
        with suppress(FileNotFoundError):
            self._path.unlink()
        self._server = await asyncio.start_unix_server(self._serve, str(self._path), limit=MESSAGE_BYTES_MAX)
        os.chmod(self._path, 0o600)

    async def stop(self) -> None:
        """Stops listening and drops every peer."""
        if self._server is not None:
            self._server.close()
        for writer in [*self._writers]:
            writer.close()
        for task in [*self._tasks]:
            task.cancel()
        self._path.unlink(missing_ok=True)

    def notify(self, topic: str, data: Any) -> None:
        """Pushes a notice to every connected peer; a peer that is away learns the state when it connects again."""
        line = msgspec.json.encode({"topic": topic, "data": data}) + b"\n"
        for writer in self._writers:
            writer.write(line)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self._on_connect is not None:
                for notice in self._on_connect():
                    writer.write(msgspec.json.encode(notice) + b"\n")
            while line := await reader.readline():
                task = asyncio.create_task(self._answer(line, writer))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        except (ConnectionError, ValueError):  # ValueError: a line over the limit
            log.warning("rpc.peer_dropped", socket=str(self._path))
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        call_id = 0
        try:
            message = msgspec.json.decode(line)
            call_id = message["id"]
            method = self._methods.get(message["method"])
            if method is None:
                raise Permanent(f"no method {message['method']!r}")
            answer: dict[str, Any] = {"id": call_id, "result": await method(message.get("params"))}
        except MainstayError as error:
            answer = {"id": call_id, "error": error.message, "hint": error.hint}
            if isinstance(error, Transient):
                answer["retry_after_s"] = error.retry_after_s
        except Exception as error:  # the outermost loop of a call: the peer must get an answer whatever happened
            log.exception("rpc.method_failed", socket=str(self._path))
            answer = {"id": call_id, "error": f"{type(error).__name__}: {error}", "hint": "", "retry_after_s": 1.0}
        with suppress(ConnectionError):
            writer.write(msgspec.json.encode(answer) + b"\n")
            await writer.drain()


class RpcClient:
    """One lasting connection to a server, made again whenever it breaks.

    `on_notice(topic, data)` sees what the server pushes; `on_state(connected)` sees the connection come and go.
    """

    def __init__(
        self,
        path: Path,
        *,
        on_notice: Callable[[str, Any], None] | None = None,
        on_state: Callable[[bool], None] | None = None,
        retry_interval_s: float = 0.1,
    ) -> None:
        self._path = path
        self._on_notice = on_notice
        self._on_state = on_state
        self._retry_interval_s = retry_interval_s
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._connected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to keep the connection."""
        self._task = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Ends the connection; calls under way fail with `Transient`."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._writer is not None:
            self._writer.close()

    async def call(self, method: str, params: Any = None, *, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """The method's result. Raises `Permanent` or `Transient` as the server says, `Transient` if it is away."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._connected.wait()
                writer = self._writer
                if writer is None:
                    raise Transient(f"{self._path.name} is not connected")
                call_id = next(self._ids)
                future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
                self._waiting[call_id] = future
                try:
                    writer.write(msgspec.json.encode({"id": call_id, "method": method, "params": params}) + b"\n")
                    await writer.drain()
                    return await future
                finally:
                    self._waiting.pop(call_id, None)
        except TimeoutError as error:
            raise Transient(f"{self._path.name} did not answer {method} within {timeout_s} s") from error
        except ConnectionError as error:
            raise Transient(f"{self._path.name} went away during {method}") from error

    async def _keep(self) -> None:
        while True:
            try:
                reader, self._writer = await asyncio.open_unix_connection(str(self._path), limit=MESSAGE_BYTES_MAX)
            except OSError:
                await asyncio.sleep(self._retry_interval_s)
                continue
            self._connected.set()
            self._report(True)
            try:
                while line := await reader.readline():
                    self._receive(msgspec.json.decode(line))
            except (ConnectionError, ValueError, msgspec.DecodeError):
                log.warning("rpc.server_dropped", socket=str(self._path))
            finally:
                self._drop()

    def _drop(self) -> None:
        self._connected.clear()
        if self._writer is not None:
            self._writer.close()
        self._writer = None
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Transient(f"{self._path.name} went away", retry_after_s=0.2))
        self._report(False)

    def _report(self, connected: bool) -> None:
        if self._on_state is not None:
            self._on_state(connected)

    def _receive(self, message: dict[str, Any]) -> None:
        if "topic" in message:
            if self._on_notice is not None:
                self._on_notice(message["topic"], message["data"])
            return
        future = self._waiting.get(message["id"])
        if future is None or future.done():
            return
        if "error" not in message:
            future.set_result(message.get("result"))
        elif "retry_after_s" in message:
            future.set_exception(
                Transient(message["error"], retry_after_s=message["retry_after_s"], hint=message.get("hint", ""))
            )
        else:
            future.set_exception(Permanent(message["error"], hint=message.get("hint", "")))
