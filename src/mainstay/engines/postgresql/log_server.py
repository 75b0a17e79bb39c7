"""Gives a recovering engine the log it asks for.

The engine's own fetch command leaves `<name>.wanted` in the node's directory of requests and waits for `<name>.ready`,
`<name>.absent` or `<name>.failed`; it takes `.wanted` away before it takes the answer. So a request is one that has no
answer beside it: the same name may be asked for again at once. Files beyond the one asked for are fetched, several at a
time, before they are wanted, since recovery reads them one after the other. Damage in the archive is `failed`, never
`absent`: recovery must not end there quietly.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from mainstay.engines.postgresql.wal import NAME, SEGMENT_BYTES, segments_after, whole
from mainstay.host.files import make_private_directory
from mainstay.host.processes import User
from mainstay.model.errors import MainstayError, Transient

LOOK_INTERVAL_S = 0.01
AHEAD = 6
"""Segments laid ready, each at most as long as one of the engine: what is in memory or in the way is bounded by it."""

FETCHES_MAX = 3
TRIES = 5
ANSWERS = ("ready", "absent", "failed")

log = structlog.get_logger()

Fetch = Callable[[str], bytes | None]


class LogServer:
    """Serves one node. `fetch(name)` is blocking, and called in several threads: the file's content, None if the
    archive has none of this name.
    """

    def __init__(self, directory: Path, user: User, fetch: Fetch) -> None:
        self._directory = directory
        self._user = user
        self._fetch = fetch
        self._places = asyncio.Semaphore(FETCHES_MAX)
        self._laying: dict[str, asyncio.Task[bool]] = {}
        self._putting = threading.Lock()
        self._removed = False
        self.failure = ""
        """What is wrong with the archive, in words for a person."""

        self.lacking = ""
        """What the archive has not got of the last segment that was asked for and is not there as a whole."""

        self.served_bytes = 0

    async def run(self) -> None:
        """Until cancelled."""
        make_private_directory(self._directory)
        self._user.give(self._directory)
        try:
            await self._serve()
        finally:
            for task in self._laying.values():
                task.cancel()
            await asyncio.gather(*self._laying.values(), return_exceptions=True)

    async def _serve(self) -> None:
        laid_for = ""
        while True:
            present = set(os.listdir(self._directory))
            wanted = [name.removesuffix(".wanted") for name in present if name.endswith(".wanted")]
            asked = [name for name in sorted(wanted) if not any(f"{name}.{word}" in present for word in ANSWERS)]
            laid = [name for name, task in self._laying.items() if task.done() and task.result()]
            taken = [name for name in laid if f"{name}.ready" not in present]
            for name in taken:
                del self._laying[name]
            latest = max((*asked, *taken), default=laid_for)
            if latest != laid_for:
                laid_for = latest
                self._lay_ready(latest)
            for name in asked:
                await self._answer(name)
            await asyncio.sleep(LOOK_INTERVAL_S)

    def _lay_ready(self, name: str) -> None:
        for one in segments_after(name, AHEAD):
            if one not in self._laying:
                self._laying[one] = asyncio.create_task(self._lay(one))

    async def _lay(self, name: str) -> bool:
        """Whether it is there now. What is wrong with it is told when it is asked for."""
        async with self._places:
            with suppress(MainstayError):
                content = await asyncio.to_thread(self._fetch, name)
                if content is not None:
                    await asyncio.to_thread(self._put, name, content)
                    return True
        return False

    async def _answer(self, name: str) -> None:
        laying = self._laying.pop(name, None)
        if laying is not None:
            await laying
        if self._path(name, "ready").exists():
            return
        try:
            content = await self._patiently(name)
        except MainstayError as error:
            self.failure = error.message
            log.error("restore.log_unreadable", name=name, error=error.message)
            self._mark(name, "failed")
            return
        if not self._path(name, "wanted").exists():
            return  # it was ready just before
        if content is not None:
            await asyncio.to_thread(self._put, name, content)
            return
        if NAME.fullmatch(name):
            self.lacking = f"no segment {name}"
        self._mark(name, "absent")

    async def _patiently(self, name: str) -> bytes | None:
        """An object storage that is away for a moment must not end a recovery."""
        for left in reversed(range(TRIES)):
            try:
                return await asyncio.to_thread(self._fetch, name)
            except Transient as error:
                if not left:
                    raise
                await asyncio.sleep(max(0.2, error.retry_after_s))
        raise AssertionError("not reached")

    def _put(self, name: str, content: bytes) -> None:
        """No fsync: after a crash the engine asks again."""
        if NAME.fullmatch(name) and len(content) < SEGMENT_BYTES:
            self.lacking = f"{len(content)} bytes only of segment {name}"
            content = whole(content)
        path = self._path(name, "part")
        with self._putting:
            if self._removed:
                return
            path.write_bytes(content)
            path.chmod(0o600)
            self._user.give(path)
            path.rename(self._path(name, "ready"))
            self.served_bytes += len(content)

    def _mark(self, name: str, word: str) -> None:
        path = self._path(name, word)
        path.touch(mode=0o600)
        self._user.give(path)

    def _path(self, name: str, word: str) -> Path:
        return self._directory / f"{name}.{word}"

    def remove(self) -> None:
        """Nothing is asked for any more. A thread that outlives its task puts nothing there afterwards."""
        with self._putting:
            self._removed = True
            shutil.rmtree(self._directory, ignore_errors=True)
