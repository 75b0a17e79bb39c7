"""The link between the nodes of a pair, as bad as one likes: a relay in front of every node's Unix socket.

A follower reaches its source over the Unix socket of the source's node (no netem is needed, nor root). The relay takes
the socket's place in the directory and passes everything on, late or not at all where it is a follower that is
connected. What is on its way when one end dies is lost, as on a network: only that makes the loss of asynchronous
replication visible. Whoever asks the kernel for the peer sees the relay, so it must run as a user whom the engine
admits: ours or the engine's.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import struct
import subprocess
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

SCAN_INTERVAL_S = 0.003
CHUNK_BYTES = 256 * 1024
ON_THE_WAY_BYTES_MAX = 16 << 20
CONNECT_PATIENCE_S = 0.3
BEHIND = ".behind"
REQUESTS = (80877103, 80877104)
"""SSLRequest and GSSENCRequest come before the startup packet (manual 55.2)."""

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Link:
    """The relays of one service, in a process of their own. Use as a context manager."""

    def __init__(self, nodes: Path) -> None:
        """`nodes` is the directory that holds a directory with a socket for each node."""
        self._nodes = nodes
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Link:
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self._nodes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # an interrupt is for the tests
        )
        self.state()
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is not None and process.stdin is not None and process.stdout is not None:
            process.stdin.close()
            process.wait(10)
            process.stdout.close()

    def delay(self, least_s: float, most_s: float) -> None:
        """What a source sends reaches its followers so much later; the order stays. Answers are not delayed."""
        self._ask(do="delay", least_s=least_s, most_s=most_s)

    def cut(self, *, silently: bool = True) -> None:
        """Nothing passes any more. Silently: nobody is told; otherwise connections end and new ones are refused."""
        self._ask(do="cut", silently=silently)

    def restore(self) -> None:
        """What is not lost passes again."""
        self._ask(do="restore")

    def state(self) -> dict[str, Any]:
        """`followers`: connections of followers now; `passed_bytes`: to followers so far; `sockets` relayed."""
        return self._ask(do="state")

    def _ask(self, **message: Any) -> dict[str, Any]:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        assert line, "the link process has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer


class Relays:
    """What the link process does."""

    def __init__(self, nodes: Path) -> None:
        self._nodes = nodes
        self._installed: dict[Path, tuple[int, asyncio.AbstractServer]] = {}
        self._least_s = self._most_s = 0.0
        self._passing = asyncio.Event()
        self._passing.set()
        self._refusing = False
        self._followers: set[asyncio.StreamWriter] = set()
        self._passed_bytes = 0

    def obey(self, message: dict[str, Any]) -> dict[str, Any]:
        """One line of the conversation with `Link`."""
        match message["do"]:
            case "delay":
                self._least_s, self._most_s = message["least_s"], message["most_s"]
            case "cut" if message["silently"]:
                self._passing.clear()
            case "cut":
                self._refusing = True
                for writer in list(self._followers):
                    writer.transport.abort()
            case "restore":
                self._refusing = False
                self._passing.set()
        return {
            "followers": len(self._followers),
            "passed_bytes": self._passed_bytes,
            "sockets": len(self._installed),
        }

    async def install_all(self) -> None:
        """Takes the place of every socket that an engine has made since."""
        for path in self._nodes.glob("*/.s.PGSQL.*"):
            if path.suffix != ".lock" and path.suffix != BEHIND and not path.name.endswith(".new"):
                with suppress(OSError):
                    await self._install(path)

    def remove_all(self) -> None:
        """Every engine has its own socket again, under the name that it gave it."""
        for path, (inode, _server) in self._installed.items():
            with suppress(OSError):
                if path.stat().st_ino == inode:
                    path.with_name(path.name + BEHIND).rename(path)

    async def _install(self, path: Path) -> None:
        found = path.stat()
        inode, server = self._installed.get(path, (0, None))
        if found.st_ino == inode:
            return
        if server is not None:
            server.close()
        behind, new = path.with_name(path.name + BEHIND), path.with_name(path.name + ".new")
        behind.unlink(missing_ok=True)
        new.unlink(missing_ok=True)
        behind.hardlink_to(path)
        fresh = await asyncio.start_unix_server(lambda r, w: self._serve((r, w), behind), str(new), limit=CHUNK_BYTES)
        os.chmod(new, found.st_mode & 0o777)
        os.chown(new, found.st_uid, found.st_gid)
        self._installed[path] = (new.stat().st_ino, fresh)
        new.rename(path)

    async def _serve(self, client: Stream, behind: Path) -> None:
        engine: Stream | None = None
        follower = False
        try:
            first, follower = await _startup(client[0])
            if follower and self._refusing:
                return
            engine = await _connected(behind)
            engine[1].write(first)
            if not follower:
                await _race(_pass(client[0], engine[1]), _pass(engine[0], client[1]))
                return
            self._followers.add(client[1])
            await _race(self._pass_late(client, engine, late=False), self._pass_late(engine, client, late=True))
        except (OSError, asyncio.IncompleteReadError, ValueError, asyncio.CancelledError):
            pass  # this is the outermost frame of the connection: an end is an end
        finally:
            self._followers.discard(client[1])
            for stream in (client, engine):
                if stream is not None and follower:
                    stream[1].transport.abort()
                elif stream is not None:
                    stream[1].close()

    async def _pass_late(self, source: Stream, target: Stream, *, late: bool) -> None:
        """Until one end has gone; the other one notices that only while something passes."""
        loop = asyncio.get_running_loop()
        on_the_way: deque[tuple[float, bytes]] = deque()
        changed, drained = asyncio.Event(), asyncio.Event()

        async def take() -> None:
            due = 0.0
            while data := await source[0].read(CHUNK_BYTES):
                due = max(due, loop.time() + (random.uniform(self._least_s, self._most_s) if late else 0.0))
                on_the_way.append((due, data))
                changed.set()
                while sum(len(one) for _due, one in on_the_way) > ON_THE_WAY_BYTES_MAX:
                    drained.clear()
                    await drained.wait()

        async def give() -> None:
            while True:
                await changed.wait()
                while on_the_way:
                    due, _data = on_the_way[0]
                    await asyncio.sleep(max(0.0, due - loop.time()))
                    await self._passing.wait()
                    _due, data = on_the_way.popleft()
                    drained.set()
                    self._passed_bytes += len(data) if late else 0
                    target[1].write(data)
                    await target[1].drain()
                changed.clear()

        await _race(take(), give())
        await self._passing.wait()


async def _race(*works: Any) -> None:
    """Until the first of them ends; the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()


async def _startup(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    """The first packet, and whether a follower sends it. What asks for encryption is not read any further."""
    head = await reader.readexactly(8)
    length, code = struct.unpack("!II", head)
    if code in REQUESTS or not 8 <= length <= 10_000:
        return head, False
    body = await reader.readexactly(length - 8)
    words = body.split(b"\0")
    settings = dict(zip(words[::2], words[1::2], strict=False))
    return head + body, b"replication" in settings or settings.get(b"application_name") == b"mainstay-rewind"


async def _connected(path: Path) -> Stream:
    """An engine that has just made its socket may not listen to it yet."""
    deadline = asyncio.get_running_loop().time() + CONNECT_PATIENCE_S
    while True:
        try:
            return await asyncio.open_unix_connection(str(path), limit=CHUNK_BYTES)
        except OSError:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.01)


async def main(nodes: Path) -> None:
    """Until standard input ends."""
    relays = Relays(nodes)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)

    async def keep_installed() -> None:
        while True:
            await relays.install_all()
            await asyncio.sleep(SCAN_INTERVAL_S)

    await relays.install_all()
    keeping = asyncio.create_task(keep_installed())
    while line := await commands.readline():
        print(json.dumps(relays.obey(json.loads(line))), flush=True)
    keeping.cancel()
    relays.remove_all()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
