"""The system tools of the kernel path."""

from __future__ import annotations

import asyncio
import os

from mainstay.endpoint.limits import COMMAND_TIMEOUT_S
from mainstay.model.errors import Transient


async def run(command: list[str], text: str = "") -> str:
    """What a system tool says with `text` as its input. Raises `Transient` with what it complained about."""
    with os.fdopen(os.memfd_create(command[0]), "w+") as given:  # not a pipe: the tool may end before it has read all
        given.write(text)
        given.seek(0)
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=given, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
        except OSError as error:
            raise Transient(f"{command[0]} cannot be run: {error.strerror}") from error
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            output, complaint = await process.communicate()
    except TimeoutError as error:
        raise Transient(f"{command[0]} did not end within {COMMAND_TIMEOUT_S} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise Transient(f"{command[0]} failed: {complaint.decode(errors='replace').strip()[:500]}")
    return output.decode()
