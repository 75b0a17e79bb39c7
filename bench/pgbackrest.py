"""pgBackRest (Debian's package, unpacked into a directory of its own) on the data of a running node."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import time
from pathlib import Path

import msgspec

from mainstay.backups.parallel import workers_default
from mainstay.backups.sealing import LEVEL_DEFAULT

HOME = Path(os.environ.get("MAINSTAY_BENCH_PGBACKREST", f"/var/tmp/mainstay-bench-pgbackrest-{os.geteuid()}"))
TIMEOUT_S = 1800
CONFIGURATION = """[global]
repo1-path={home}/repository
repo1-cipher-type=aes-256-cbc
repo1-cipher-pass={password}
compress-type=zst
compress-level={level}
process-max={workers}
start-fast=y
lock-path={home}/lock
log-path={home}/log
spool-path={home}/spool
log-level-console=warn
archive-check=n
archive-mode-check=n
repo1-retention-full=9

[bench]
pg1-path={data}
pg1-socket-path={sockets}
pg1-port={port}
pg1-user=rdsadmin
pg1-database=rdsadmin
"""


class NotInstallable(Exception):
    """There is no pgBackRest here and it cannot be fetched."""


class Cost(msgspec.Struct, frozen=True):
    """What something took: seconds on the wall, and of all processors."""

    wall_s: float
    cpu_s: float


class PgBackRest:
    """A repository of its own below `home`; the same compression, level and number of processes as ours."""

    def __init__(self, home: Path, data: Path, sockets: Path, port: int) -> None:
        self._program = _program()
        self.repository = home / "repository"
        self._configuration = home / "pgbackrest.conf"
        for name in ("repository", "lock", "log", "spool"):
            (home / name).mkdir(parents=True, mode=0o700)
        self._configuration.write_text(
            CONFIGURATION.format(
                home=home, data=data, sockets=sockets, port=port, level=LEVEL_DEFAULT, workers=workers_default(),
                password="bench-only-0123456789",
            )
        )  # fmt: skip
        self.version = self._run("version").split()[-1]
        self._run("stanza-create", "--stanza=bench")

    def back_up(self, kind: str) -> Cost:
        """A `full` or `incr` backup."""
        return self._measured("backup", "--stanza=bench", f"--type={kind}")

    def restore(self, destination: Path) -> Cost:
        """The newest backup into a directory that does not exist yet."""
        destination.mkdir(mode=0o700)
        return self._measured("restore", "--stanza=bench", f"--pg1-path={destination}", "--archive-mode=off")

    def _measured(self, *arguments: str) -> Cost:
        before, started = children_cpu_s(), time.monotonic()
        self._run(*arguments)
        return Cost(time.monotonic() - started, children_cpu_s() - before)

    def _run(self, *arguments: str) -> str:
        command = [str(self._program), f"--config={self._configuration}", *arguments]
        if arguments == ("version",):
            command = [str(self._program), "version"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=environment, cwd="/"
        )
        if done.returncode != 0:
            raise RuntimeError(f"pgbackrest {arguments[0]}: {(done.stdout + done.stderr)[-1500:]}")
        return done.stdout


def children_cpu_s() -> float:
    """Processor time of our children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _program() -> Path:
    """The installed one, or that of Debian's package. Raises `NotInstallable`."""
    installed = shutil.which("pgbackrest")
    if installed:
        return Path(installed)
    program = HOME / "usr" / "bin" / "pgbackrest"
    if program.exists():
        return program
    HOME.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["apt-get", "-qq", "download", "pgbackrest"], cwd=HOME, check=True, timeout=120,
                       stderr=subprocess.DEVNULL)  # fmt: skip
        (package,) = HOME.glob("pgbackrest_*.deb")
        subprocess.run(["dpkg-deb", "-x", str(package), str(HOME)], check=True, timeout=60)
        subprocess.run([str(program), "version"], check=True, timeout=20, capture_output=True)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise NotInstallable(f"pgBackRest cannot be unpacked into {HOME}: {error}") from error
    return program
