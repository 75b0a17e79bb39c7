"""A data directory as the build makes it, kept beside the builds: making one takes seconds, unpacking it a fraction.

There is nothing in it that is a node's own: no server UUID, no keys, no accounts but those that every start replaces.
"""

from __future__ import annotations

import asyncio
import io
import tarfile
from pathlib import Path

import zstandard

from mainstay.engines.mysql.bootstrap import bootstrap_command
from mainstay.host.files import write_atomically
from mainstay.host.processes import User, run
from mainstay.model.engine import ORIGIN_INSTALLED, EngineBuild

UNPACK_TIMEOUT_S = 120.0
BOOTSTRAP_TIMEOUT_S = 120.0
BYTES_MAX = 1 << 30
OWN = ("./auto.cnf", "./private_key.pem", "./public_key.pem")
"""What the server makes at its first start if it is not there: its UUID and keys."""


def kept_at(build: EngineBuild) -> Path | None:
    """Where the template of the build is, if it has a place; whether it is there is another question."""
    if build.origin != ORIGIN_INSTALLED:
        return None
    return build.prefix.parent / "catalogue" / f"{build.name}-data.tar.zst"


def keep(build: EngineBuild, data: Path) -> None:
    """Keeps this data directory, which no server has been started on."""
    path = kept_at(build)
    if path is None:
        return
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(data, arcname=".", filter=lambda member: None if member.name in OWN else _nobodys(member))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    write_atomically(path, zstandard.compress(packed.getvalue()), mode=0o644)


def _nobodys(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


async def make(build: EngineBuild, data: Path, user: User) -> None:
    """A data directory of the build, from the template or by the server itself. `data` is empty, or not there."""
    kept = await asyncio.to_thread(_read, build)
    environment = {"TZ": "UTC", **build.environment}
    if kept is None:
        command = [*bootstrap_command(build), f"--datadir={data}"]
        await run(command, user=user, timeout_s=BOOTSTRAP_TIMEOUT_S, env=environment)
        return
    await run(["mkdir", "-p", "-m", "700", str(data)], user=user, timeout_s=UNPACK_TIMEOUT_S)
    command = ["tar", "-x", "--no-same-owner", "-C", str(data), "-f", "-"]
    await run(command, user=user, timeout_s=UNPACK_TIMEOUT_S, stdin=kept)


def _read(build: EngineBuild) -> bytes | None:
    """The unpacked archive, None if there is none that can be used."""
    path = kept_at(build)
    try:
        return None if path is None else zstandard.decompress(path.read_bytes(), max_output_size=BYTES_MAX)
    except (OSError, zstandard.ZstdError):
        return None
