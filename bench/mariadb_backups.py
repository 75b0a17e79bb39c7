"""MariaDB: backups beside `mariadb-backup | zstd`.

`MAINSTAY_BENCH_MIB` (1024) is the size of the data. Both make their backups of the same running server, alternately,
with as many threads; everything is on disk when either ends. Ours is timed from the API call until the snapshot is
available, and is encrypted. Both restores end with a directory that a server can be started on.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.multi_az import Tools
from bench.report import Table, spread
from harness.backups import Kept
from harness.dialects import MARIADB, EngineUnderTest, newest_of
from harness.service import Service
from mainstay.agent.repositories import SystemRepositories
from mainstay.backups.parallel import workers_default
from mainstay.backups.sealing import LEVEL_DEFAULT
from mainstay.engines.builds import Builds
from mainstay.engines.mysql_family.local_sessions import SOCKET
from mainstay.engines.registry import drivers
from mainstay.host.randomness import SystemRandomness
from mainstay.model.engine import EngineBuild
from mainstay.model.node import RestoreSpec, RestoreTarget

HEADING = "MariaDB: backups"
MIB = int(os.environ.get("MAINSTAY_BENCH_MIB", "1024"))
NOISE_ROWS_PER_MIB = 9_500
"""Of 64 hexadecimal digits and a number: they compress to about half."""

BACKUP_ROUNDS = int(os.environ.get("MAINSTAY_BENCH_ROUNDS", "5"))
TIMEOUT_S = 1800.0


def run(say: Callable[[str], None]) -> list[Table]:
    """None where MariaDB is not installed."""
    tables = []
    for engine in newest_of(MARIADB):
        with Service() as service:
            build = Builds(service.settings).resolve("mariadb", engine.version)
            tools = Tools(build, service.settings.engine_user)
            tables.append(_backups(service, engine, build, tools, say))
    return tables


def _backups(
    service: Service, engine: EngineUnderTest, build: EngineBuild, tools: Tools, say: Callable[[str], None]
) -> Table:
    instance = engine.create(service, "bench", DBInstanceClass="db.t3.medium", DBName="shop")
    say(f"mariadb: making {MIB} MiB of data")
    with engine.connect(service, instance, database="shop", read_timeout=TIMEOUT_S) as session:
        session.rows("CREATE TABLE noise (id int PRIMARY KEY, value char(64)) CHARSET ascii")
        count = MIB * NOISE_ROWS_PER_MIB
        session.rows(f"INSERT INTO noise SELECT seq, CONCAT(MD5(seq), MD5(-seq)) FROM seq_1_to_{count}")  # noqa: S608 - a number
    kept = Kept(service, "bench", timeout_s=TIMEOUT_S)
    kept.rds.modify_db_instance(DBInstanceIdentifier="bench", BackupRetentionPeriod=7, ApplyImmediately=True)
    kept.await_window()
    times: dict[str, list[tuple[float, float]]] = {"backup": [], "restore": []}
    scratch = Path(tempfile.mkdtemp(prefix="mainstay-bench-", dir=service.home))
    scratch.chmod(0o711)
    tools.user.give(scratch)
    try:
        peer = _Peer(service, build, tools, scratch)
        for number in range(BACKUP_ROUNDS):
            compared: tuple[tuple[str, Callable[[], float], Callable[[], float]], ...] = (
                ("backup", partial(_full, kept, f"full{number}"), peer.back_up),
                ("restore", partial(_restore, service, kept, build, tools, scratch), peer.restore),
            )
            for what, ours, theirs in compared:
                steps = [ours, theirs] if number % 2 else [theirs, ours]
                seconds = {step: step() for step in steps}
                times[what].append((seconds[ours], seconds[theirs]))
            say(f"mariadb: round {number + 1} of {BACKUP_ROUNDS} beside mariadb-backup")
        size_mib = peer.size_bytes / 2**20
    finally:
        shutil.rmtree(scratch)
    service.delete_instance("bench")
    rows = [
        (f"{what}, s", spread([one for one, _ in pairs], 2), spread([other for _, other in pairs], 2),
         spread([one / other for one, other in pairs], 2))
        for what, pairs in times.items()
    ]  # fmt: skip
    return Table(
        title=f"{size_mib:.0f} MiB of MariaDB {engine.version}, zstd, {BACKUP_ROUNDS} rounds, seconds on the wall",
        columns=("", "Mainstay", "mariadb-backup \\| zstd", "ratio"),
        rows=tuple(rows),
        notes=(
            "Our backup is encrypted, and timed through the API. Both restores unpack and prepare; ours checks what it"
            " reads. All is on the disk, the engine not started.",
        ),
    )


def _full(kept: Kept, name: str) -> float:
    """Seconds of a backup that finds no earlier one in its repository."""
    manifests, aside = kept.directory / "manifests", kept.directory / "aside"
    manifests.rename(aside)
    try:
        started = time.monotonic()
        kept.begin_snapshot(name)
        kept.await_snapshot(name)
        return time.monotonic() - started
    finally:
        for path in aside.iterdir():
            path.rename(manifests / path.name)
        aside.rmdir()


def _restore(service: Service, kept: Kept, build: EngineBuild, tools: Tools, scratch: Path) -> float:
    """Seconds of the newest snapshot's files, by the worker of the agent, until a server could be started on them."""
    backup_id = max(path.name for path in (kept.directory / "manifests").iterdir())
    spec = RestoreSpec(repository=kept.ref, backup_id=backup_id, target=RestoreTarget())
    repositories = SystemRepositories(service.settings, SystemRandomness())
    place, started = scratch / "ours", time.monotonic()

    async def restore() -> None:
        place.mkdir(mode=0o700)
        tools.user.give(place)
        await repositories.restore(spec, place, tools.user, lambda *_: None)
        await drivers()["mariadb"].backups.complete_copy(place, lambda: build, tools.user)

    asyncio.run(restore())
    seconds = time.monotonic() - started
    shutil.rmtree(place)
    return seconds


class _Peer:
    """`mariadb-backup --stream | zstd` of the running server, into a file."""

    def __init__(self, service: Service, build: EngineBuild, tools: Tools, scratch: Path) -> None:
        self._tools = tools
        self._build = build
        self._scratch = scratch
        node = service.node("bench")
        self._socket = service.settings.runtime / "nodes" / node["node"] / SOCKET
        self._data = Path(node["data_directory"])

    @property
    def size_bytes(self) -> int:
        """Of the data, without binary logs."""
        files = [path for path in self._data.rglob("*") if path.is_file() and "bin-changelog" not in path.name]
        return sum(path.stat().st_size for path in files)

    def back_up(self) -> float:
        """Seconds until the stream is on the disk."""
        file = self._scratch / "stream.zst"
        threads = workers_default()
        taking = [
            str(self._build.bin_directory / "mariadb-backup"), "--no-defaults", "--backup", "--stream=mbstream",
            f"--parallel={threads}", f"--socket={self._socket}", f"--user={self._tools.user.name}",
            f"--target-dir={self._scratch}/target",
        ]  # fmt: skip
        started = time.monotonic()
        self._pipe(taking, ["zstd", "-q", "-f", f"-{LEVEL_DEFAULT}", f"-T{threads}", "-o", str(file)])
        subprocess.run(["sync", str(file)], check=True, timeout=TIMEOUT_S)
        return time.monotonic() - started

    def restore(self) -> float:
        """Seconds until the directory is on the disk and a server could be started on it."""
        place = self._scratch / "theirs"
        place.mkdir(mode=0o700)
        self._tools.user.give(place)
        started = time.monotonic()
        unpacking = [str(self._build.bin_directory / "mbstream"), "-x", "-C", str(place), "-p", str(workers_default())]
        self._pipe(["zstd", "-q", "-d", "-c", str(self._scratch / "stream.zst")], unpacking)
        self._tools.run("mariadb-backup", "--no-defaults", "--prepare", f"--target-dir={place}")
        subprocess.run(["sync", "-f", str(place)], check=True, timeout=TIMEOUT_S)
        seconds = time.monotonic() - started
        shutil.rmtree(place)
        return seconds

    def _pipe(self, first: list[str], second: list[str]) -> None:
        """Both programs as the engines' user. Raises `RuntimeError` unless both succeed."""
        target = self._scratch / "target"
        shutil.rmtree(target, ignore_errors=True)
        options = {"cwd": "/", "env": self._tools.environment(), **self._tools.credentials}
        with (self._scratch / "said").open("wb") as said:
            giving = subprocess.Popen(first, stdout=subprocess.PIPE, stderr=said, **options)
            taking = subprocess.Popen(second, stdin=giving.stdout, stderr=said, **options)
            assert giving.stdout is not None
            giving.stdout.close()
            codes = taking.wait(TIMEOUT_S), giving.wait(TIMEOUT_S)
        if any(codes):
            raise RuntimeError(f"{first[0]}: {(self._scratch / 'said').read_text()[-1500:]}")
