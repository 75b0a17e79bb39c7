"""Our side of `mainstay.shim.confined`: a program that takes apart what somebody else has made, and can do no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import msgspec

from mainstay.host.processes import SAFE_ENVIRONMENT

NOBODY = 65534
"""Who such a program is when we are root: a user who owns nothing (kernel documentation, overflowuid)."""

SAID_BYTES_MAX = 1 << 20


class Confinement(msgspec.Struct, frozen=True, kw_only=True):
    """What the program may read and execute, and how much of the machine it may use."""

    readable: tuple[Path, ...]
    executable: tuple[Path, ...]
    memory_bytes: int
    cpu_s: int


def owner_of_confined() -> tuple[int, int] | None:
    """User and group ids of such a program; None: our own."""
    return (NOBODY, NOBODY) if os.geteuid() == 0 else None


def start_confined(
    argv: Sequence[str],
    confinement: Confinement,
    *,
    cwd: Path,
    stdin: IO[bytes] | int,
    said: IO[bytes],
    env: Mapping[str, str],
) -> subprocess.Popen[bytes]:
    """Starts it; its standard output is a pipe, its standard error the file `said`, of at most `SAID_BYTES_MAX`.

    If it cannot be confined it ends at once with the status `NOT_CONFINED`.
    """
    owner = owner_of_confined()
    wanted = {
        "argv": list(argv),
        "env": {**SAFE_ENVIRONMENT, **env},
        "cwd": str(cwd),
        "readable": [str(path) for path in confinement.readable],
        "executable": [str(path) for path in confinement.executable],
        "user": None if owner is None else owner[0],
        "group": None if owner is None else owner[1],
        "memory_bytes": confinement.memory_bytes,
        "cpu_s": confinement.cpu_s,
        "file_bytes": SAID_BYTES_MAX,
    }
    return subprocess.Popen(
        [sys.executable, "-I", "-m", "mainstay.shim.confined", json.dumps(wanted)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=said,
        env=dict(SAFE_ENVIRONMENT),
        start_new_session=True,
    )
