"""What the drivers share: one change of a volume at a time, and helper programs that keep that promise for us.

The lock is inherited by the helpers: one that outlives a killed agent (mkfs, resize2fs) keeps the next agent away from
the volume until it has ended.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from mainstay.host.processes import OUTPUT_BYTES_SHOWN, SAFE_ENVIRONMENT
from mainstay.model.errors import Permanent, Transient

P = ParamSpec("P")
T = TypeVar("T")
BUSY_RETRY_S = 0.2


@contextmanager
def exclusively(lock: Path) -> Iterator[int]:
    """Holds the volume's lock for the block; gives its descriptor, for helpers. `Transient` while another has it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Transient(
                f"another operation on the volume {lock.parent} is under way", retry_after_s=BUSY_RETRY_S
            ) from error
        yield descriptor
    finally:
        os.close(descriptor)


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The function's result, from a thread. Errors of the system become ours: `Transient`, for most of them pass."""
    try:
        return await asyncio.to_thread(function, *args, **kwargs)
    except OSError as error:
        raise Transient(f"{error.strerror or error}", retry_after_s=1.0) from error


def program(name: str) -> str:
    """Where a helper program is. Raises `Permanent` with the package that has it."""
    found = shutil.which(name, path=SAFE_ENVIRONMENT["PATH"])
    if found is None:
        package = {"gocryptfs": "gocryptfs", "fusermount3": "fuse3"}.get(name, "e2fsprogs")
        raise Permanent(f"{name} is missing", hint=f"Install the package {package}.")
    return found


def run_helper(
    argv: Sequence[str], lock: int, *, timeout_s: float, stdin: bytes = b"", accepted: Sequence[int] = (0,)
) -> bytes:
    """Runs a helper to its end, the volume's lock in its hands; its output.

    Raises `Permanent` with the end of what it said, `Transient` when it takes too long (it is killed then).
    """
    try:
        done = subprocess.run(
            [program(argv[0]), *argv[1:]],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=SAFE_ENVIRONMENT,
            cwd="/",
            pass_fds=(lock,),
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Transient(f"{argv[0]} took longer than {timeout_s} s") from error
    if done.returncode not in accepted:
        shown = done.stdout[-OUTPUT_BYTES_SHOWN:].decode(errors="replace").strip()
        raise Permanent(f"{argv[0]} failed with status {done.returncode}: {shown}")
    return done.stdout
