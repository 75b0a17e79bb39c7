"""Running a job in a worker process, from an event loop."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec

from mainstay.backups.jobs import JOB_BYTES_MAX, Copied, Done, Failed, Job, Message, Progressed
from mainstay.backups.write import Late
from mainstay.host.layout import KEPT_ENVIRONMENT
from mainstay.model.errors import Transient

STOP_GRACE_S = 15.0
ERROR_TEXT_BYTES_MAX = 2000

Report = Callable[[int, int], None]
AskLate = Callable[[], Awaitable[Late]]


async def run_job(
    job: Job | Callable[[], Awaitable[Job]],
    *,
    report: Report | None = None,
    late: AskLate | None = None,
    deadline_s: float | None = None,
    pipe: int | None = None,
) -> Done:
    """Does the job in a process of its own. `late` is asked when a backup has read everything (`ask_late`).

    A job that is yet to be made is made while the process starts. `pipe` is a descriptor to read from, under the same
    number there; it is closed here, whatever happens, so that whoever writes sees when the process has ended.

    Raises what the worker raised, and `Transient` when it dies or the deadline passes. When the caller is cancelled,
    the worker is stopped before this returns.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "mainstay.backups",
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            limit=JOB_BYTES_MAX,
            cwd="/",
            env={name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ},
            pass_fds=() if pipe is None else (pipe,),
        )
    finally:
        if pipe is not None:
            os.close(pipe)
    try:
        async with asyncio.timeout(deadline_s):
            return await _talk(process, job, report, late)
    except TimeoutError as error:
        raise Transient(f"the worker was not done within {deadline_s:.0f} s") from error
    finally:
        await _end(process)


async def _talk(
    process: Process, job: Job | Callable[[], Awaitable[Job]], report: Report | None, late: AskLate | None
) -> Done:
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise Transient("the worker has no pipes")
    complaints = asyncio.create_task(process.stderr.read(ERROR_TEXT_BYTES_MAX))
    try:
        made = await job() if callable(job) else job
        with suppress(ConnectionError):  # it died; its last words say more than a broken pipe
            await _send(process.stdin, made)
        async for line in process.stdout:
            message = msgspec.json.decode(line, type=Message)
            if isinstance(message, Done):
                return message
            if isinstance(message, Failed):
                raise message.error()
            if isinstance(message, Progressed) and report:
                report(message.done, message.total)
            if isinstance(message, Copied):
                await _send(process.stdin, await late() if late else Late())
        text = (await complaints).decode(errors="replace").strip()
        raise Transient(f"the backup worker died: {text[-500:] or 'it said nothing'}")
    finally:
        complaints.cancel()


async def _send(stream: asyncio.StreamWriter, message: Job | Late) -> None:
    stream.write(msgspec.json.encode(message) + b"\n")
    await stream.drain()


async def _end(process: Process) -> None:
    """Gives it the time to stop in good order, and no more."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), STOP_GRACE_S)
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
