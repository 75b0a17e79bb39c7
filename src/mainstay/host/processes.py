"""Running helper programs to their end: lists only, with a deadline, as the engine's user where that matters."""

from __future__ import annotations

import asyncio
import os
import pwd
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mainstay.model.errors import Permanent, Transient

OUTPUT_BYTES_SHOWN = 2000
SAFE_ENVIRONMENT = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}


class User(msgspec.Struct, frozen=True):
    """A system user that engine processes run as; both ids None: the user we run as ourselves."""

    name: str
    user_id: int | None = None
    group_id: int | None = None

    def give(self, path: Path) -> None:
        """Makes the path this user's own."""
        if self.user_id is not None and self.group_id is not None:
            os.chown(path, self.user_id, self.group_id)


def engine_user(name: str) -> User:
    """The user that engines run as: `name` when we are root (database engines refuse root), else ourselves.

    Raises `Permanent` when we are root and the user does not exist.
    """
    if os.geteuid() != 0:
        return User(pwd.getpwuid(os.geteuid()).pw_name)
    try:
        entry = pwd.getpwnam(name)
    except KeyError as error:
        raise Permanent(f"there is no system user {name!r}", hint="`mainstay up` as root creates it.") from error
    return User(name, entry.pw_uid, entry.pw_gid)


def raise_file_limit() -> int:
    """Lifts our soft limit on open files to the hard one; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


async def run(
    argv: Sequence[str],
    *,
    user: User | None = None,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes = b"",
    stdout: int = asyncio.subprocess.PIPE,
) -> bytes:
    """The program's standard output; nothing of it if that is to go to the descriptor `stdout`.

    Raises `Permanent` with the end of its output if it fails or cannot be started, `Transient` if it takes too long
    (it is killed then).
    """
    credentials: dict[str, Any] = {}
    if user is not None and user.user_id is not None:
        credentials = {"user": user.user_id, "group": user.group_id, "extra_groups": []}
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
            env={**SAFE_ENVIRONMENT, **(env or {})},
            cwd=cwd or "/",
            start_new_session=True,
            **credentials,
        )
    except OSError as error:
        raise Permanent(f"{argv[0]} cannot be started: {error}") from error
    try:
        async with asyncio.timeout(timeout_s):
            output, errors = await process.communicate(stdin)
    except TimeoutError as error:
        raise Transient(f"{Path(argv[0]).name} took longer than {timeout_s} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        shown = (errors or output)[-OUTPUT_BYTES_SHOWN:].decode(errors="replace").strip()
        raise Permanent(f"{Path(argv[0]).name} failed with status {process.returncode}: {shown}")
    return output or b""
