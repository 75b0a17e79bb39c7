"""`mainstay backups import`: a base backup of stock tools becomes the data of a DB instance.

The work is done here, on a copy beside the instance's data and as the engine's user: the given files are only read.
Only when the copy is complete, checked and converted is it exchanged with the instance's data, as in a restore in
place: by a workflow, with the former data kept aside.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from mainstay.agent.kept_data import PREFIX
from mainstay.cli.agent import ask_agent, ask_control
from mainstay.engines.backups import EngineBackups
from mainstay.engines.builds import Builds
from mainstay.engines.postgresql.imported import WITHOUT_TABLESPACES
from mainstay.engines.registry import drivers
from mainstay.host.file_identity import files_as
from mainstay.host.files import fsync_directory
from mainstay.host.processes import SAFE_ENVIRONMENT, User, engine_user
from mainstay.model.errors import MainstayError, Permanent
from mainstay.settings import Settings

UNFINISHED = "data.importing-"
TAR = "/usr/bin/tar"
TARS = {"base": "", "pg_wal": "pg_wal"}
"""What `pg_basebackup -Ft` writes, and where in the data directory it belongs."""

ENDINGS = (".tar", ".tar.gz", ".tgz")
MANIFEST = "backup_manifest"
COPY_BYTES = 1 << 20


def import_backup(settings: Settings, source: Path, instance: str, *, region: str, has_manifest: bool) -> str:
    """Does it; the name under which the instance's former data is kept. Nothing is changed if it raises."""
    source = source.absolute()
    if not source.is_dir():
        raise Permanent(f"{source} is no directory", hint="Name what `pg_basebackup -D` has written.")
    tars = _tars(source)
    if has_manifest and not (source / MANIFEST).exists():
        raise Permanent(
            f"there is no {MANIFEST} in {source}: its files cannot be checked",
            hint="--without-manifest takes it all the same.",
        )
    named = {"name": instance, "region": region}
    plan = ask_control(settings, "expect_import", {**named, "origin": str(source)})
    try:
        backups = drivers()[plan["engine"]].backups
        if not tars:
            _require(backups, source)
        volume = _volume(settings, plan["node_id"])
        user = engine_user(settings.engine_user)
        build = Builds(settings).resolve(plan["engine"], plan["version"])
        with _staged(volume, user) as staging:
            print("copying the files …")
            _copy(source, tars, staging, user)
            with files_as(_owner(user)):
                _require(backups, staging)
                _require_no_links(staging)
            print("checking them …")
            asyncio.run(backups.check_import(staging, build, user, has_manifest=has_manifest))
            print("recovering and converting the copy …")
            asyncio.run(backups.convert_import(staging, build, user, plan["master"]))
            with files_as(_owner(user)):
                staging.rename(volume / f"{PREFIX}{plan['kept']}")
                fsync_directory(volume)
    except BaseException:
        with suppress(MainstayError):
            ask_control(settings, "discard", {**named, "kept": plan["kept"]})
        raise
    aside: str = ask_control(settings, "go_back", {**named, "kept": plan["kept"]})
    return aside


def _tars(source: Path) -> dict[str, Path]:
    """The archives of `pg_basebackup -Ft`, by name; none of a plain directory."""
    found: dict[str, Path] = {}
    for path in source.iterdir():
        name, dot, ending = path.name.partition(".")
        if "tar" not in ending.split(".") and ending != "tgz":
            continue
        if name not in TARS:
            raise Permanent(
                f"{path.name} is the archive of a tablespace, which a DB instance cannot have", hint=WITHOUT_TABLESPACES
            )
        if dot + ending not in ENDINGS:
            raise Permanent(f"{path.name} is compressed in a way that is not read here", hint="Decompress it first.")
        found[name] = path
    if found and set(found) != set(TARS):
        raise Permanent("there must be base.tar and pg_wal.tar", hint="Take it with `pg_basebackup -Ft -X stream`.")
    return found


def _require(backups: EngineBackups, directory: Path) -> None:
    reason = backups.import_refusal({path.name: path.lstat().st_size for path in directory.iterdir()})
    if reason:
        raise Permanent(reason)


def _require_no_links(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_symlink():
            raise Permanent(
                f"{path.relative_to(directory)} is a link to elsewhere",
                hint=f"In the place of a link put what it leads to; if it is of a tablespace: {WITHOUT_TABLESPACES}",
            )


def _volume(settings: Settings, node_id: str) -> Path:
    for node in ask_agent(settings, "nodes"):
        if node["node_id"] == node_id:
            return Path(node["data_directory"]).parent
    raise Permanent("the DB instance is not on this host")


def _owner(user: User) -> tuple[int, int] | None:
    return None if user.user_id is None or user.group_id is None else (user.user_id, user.group_id)


@contextmanager
def _staged(volume: Path, user: User) -> Iterator[Path]:
    """A directory of the engine's user beside the data; gone afterwards, unless it was renamed."""
    with files_as(_owner(user)):
        for path in volume.glob(UNFINISHED + "*"):  # an import that was killed
            shutil.rmtree(path, ignore_errors=True)
        made = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=volume))
    try:
        yield made
    finally:
        with files_as(_owner(user)):
            shutil.rmtree(made, ignore_errors=True)


def _copy(source: Path, tars: dict[str, Path], staging: Path, user: User) -> None:
    """Nothing is written but as the engine's user; nothing is read through a link of the given files."""
    if not tars:
        reads, writes = os.pipe()
        with os.fdopen(reads, "rb") as stream, subprocess.Popen(
            [TAR, "-C", str(source), "-cf", "-", "."], stdout=writes, env=SAFE_ENVIRONMENT
        ) as packing:  # fmt: skip
            os.close(writes)
            _unpack(stream, staging, user)
        if packing.returncode != 0:
            raise Permanent(f"{source} cannot be read as a whole")
        return
    for name, path in tars.items():
        opened: Any = gzip.open(path) if path.name.endswith("gz") else path.open("rb")
        target = staging / TARS[name]
        with files_as(_owner(user)):
            target.mkdir(mode=0o700, exist_ok=True)
        with opened as stream:
            _unpack(stream, target, user)
    if (source / MANIFEST).exists():
        content = (source / MANIFEST).read_bytes()
        with files_as(_owner(user)):
            (staging / MANIFEST).write_bytes(content)


def _unpack(stream: BinaryIO, target: Path, user: User) -> None:
    credentials: dict[str, Any] = {}
    if user.user_id is not None:
        credentials = {"user": user.user_id, "group": user.group_id, "extra_groups": []}
    reads, writes = os.pipe()
    with tempfile.TemporaryFile() as said, subprocess.Popen(
        [TAR, "-C", str(target), "--no-same-owner", "-xf", "-"], stdin=reads, stderr=said, env=SAFE_ENVIRONMENT,
        cwd="/", **credentials,
    ) as unpacking:  # fmt: skip
        os.close(reads)
        try:
            with suppress(BrokenPipeError), os.fdopen(writes, "wb") as sink:
                shutil.copyfileobj(stream, sink, COPY_BYTES)
        except (OSError, EOFError, zlib.error) as error:
            raise Permanent(f"the archive cannot be read: {error}") from error
        unpacking.wait()
        said.seek(0)
        words = said.read()[-500:].decode(errors="replace").strip()
    if unpacking.returncode != 0:
        raise Permanent(f"the files cannot be copied: {words}")
