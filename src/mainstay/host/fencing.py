"""Fencing: an engine process tree that is made unable to do anything more, whatever state it, its shim or we are in.

A process is fenced when it is gone, or when SIGKILL is pending for it: it can never run an instruction of its own
again, even if it is frozen or waits for a disk now. Which processes belong to a node is read from the kernel: the
database servers have their data directory as working directory, and a child inherits that.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from mainstay.model.errors import Transient

FENCE_TIMEOUT_S = 5.0
_SIGKILL_BIT = 1 << (signal.SIGKILL - 1)


async def fence(volume: Path) -> int:
    """Kills every process that works below `volume`; returns how many there were.

    When this returns, none of them can run again. Raises `Transient` if that could not be made certain.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + FENCE_TIMEOUT_S
    killed: set[int] = set()
    clean_looks = 0
    while clean_looks < 2:  # a child that was being born during one look is seen by the next
        alive = [pid for pid in processes_below(volume) if not _kill_pending(pid)]
        clean_looks = 0 if alive else clean_looks + 1
        for pid in alive:
            killed.add(pid)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if alive:
            if loop.time() > deadline:
                raise Transient(f"processes {sorted(alive)} below {volume} cannot be killed", retry_after_s=0.2)
            await asyncio.sleep(0.003)
    return len(killed)


def processes_below(directory: Path) -> list[int]:
    """Processes whose working directory is in `directory`."""
    prefix = f"{os.path.realpath(directory)}/"
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            where = os.readlink(f"/proc/{name}/cwd")
        except OSError:
            continue  # it ended, it is a kernel thread, or it is not ours to look at
        if f"{where.removesuffix(' (deleted)')}/".startswith(prefix):
            found.append(int(name))
    return found


def _kill_pending(pid: int) -> bool:
    """Whether the process is gone, a zombie, or condemned."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    if fields.get("State", "").strip()[:1] in ("Z", "X"):
        return True
    return any(int(fields.get(name, "0"), 16) & _SIGKILL_BIT for name in ("SigPnd", "ShdPnd"))
