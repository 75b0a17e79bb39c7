"""Kinds of volumes beside each other: the same PostgreSQL, configuration and pgbench on each that this host can have.

Every round runs all kinds one after the other, each round beginning with another one; ratios are taken within a round,
to the plain directory and to the same kind without encryption. All of them are on the same disk.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import psycopg

from bench.report import Table, spread
from mainstay.engines.builds import Builds
from mainstay.host.processes import SAFE_ENVIRONMENT, User, engine_user
from mainstay.host.users import ensure_engine_user
from mainstay.host.volumes import DRIVERS, VolumePlace, examine_drivers
from mainstay.host.volumes.mounts import remove_tree
from mainstay.model.engine import EngineBuild
from mainstay.model.volume import VolumeDriverReport, VolumeSpec
from mainstay.settings import load_settings

HEADING = "Kinds of volumes"
SIZE_BYTES = 4 << 30
SCALE = 30
CLIENTS = 8
SECONDS = 5
ROUNDS = 5
LOADS = {"tpcb": ("-b", "tpcb-like"), "select": ("-S",)}
CONFIGURATION = """listen_addresses = ''
shared_buffers = 128MB
checkpoint_timeout = 60min
max_wal_size = 2GB
"""
UNENCRYPTED = {"image + fscrypt": "image", "gocryptfs": "directory"}
"""What an encrypted kind would be without encryption: the difference is what encryption alone costs."""

KEY = "5e" * 32
READY_TIMEOUT_S = 60.0


class Way(msgspec.Struct, frozen=True):
    """One kind of volume and the server on it."""

    name: str
    sockets: Path


class Programs:
    """The programs of one build, as the engines' user."""

    def __init__(self, build: EngineBuild, user: User) -> None:
        self.build, self.user = build, user

    def argv(self, name: str, *arguments: str) -> list[str]:
        """The command."""
        return [str(self.build.bin_directory / name), *arguments]

    def start(self, argv: list[str], **options: object) -> subprocess.Popen[str]:
        """Starts one."""
        who = {} if self.user.user_id is None else {"user": self.user.user_id, "group": self.user.group_id}
        environment = {**SAFE_ENVIRONMENT, "TZ": "UTC", **self.build.environment}
        return subprocess.Popen(argv, env=environment, cwd="/", text=True, **who, **options)  # type: ignore[call-overload,no-any-return]

    def run(self, name: str, *arguments: str) -> str:
        """Its output, once it has ended well."""
        process = self.start(self.argv(name, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        output, errors = process.communicate(timeout=600)
        assert process.returncode == 0, f"{name}: {errors}"
        return output


def run(say: Callable[[str], None]) -> list[Table]:
    """The one table."""
    settings = load_settings(dict(os.environ))
    ensure_engine_user(settings.engine_user)
    own = [one for one in Builds(settings).installed() if one.origin == "installed"]
    build = max(own, key=lambda one: [int(part) for part in one.version.split(".")])
    programs = Programs(build, engine_user(settings.engine_user))
    directory = Path(tempfile.mkdtemp(prefix="mainstay-bench-", dir="/var/tmp"))
    directory.chmod(0o711)
    reports = examine_drivers(directory)
    try:
        with ExitStack() as stack:
            ways = [
                stack.enter_context(_server(programs, directory, report, say)) for report in reports if report.usable
            ]
            results = _measure(programs, ways, say)
    finally:
        remove_tree(directory)
    return [_table(build, results, reports)]


def _name(report: VolumeDriverReport) -> str:
    return f"{report.driver} + fscrypt" if report.driver == "image" and report.encrypted else report.driver


@contextmanager
def _server(
    programs: Programs, directory: Path, report: VolumeDriverReport, say: Callable[[str], None]
) -> Iterator[Way]:
    """A server on a volume of this kind, with pgbench's tables in it."""
    name = _name(report)
    root = directory / name.replace(" ", "")
    place, driver = VolumePlace(root), DRIVERS[report.driver]
    key = KEY if report.encrypted else ""
    spec = VolumeSpec(driver=report.driver, size_bytes=SIZE_BYTES, encrypted=report.encrypted, data_key=key)
    root.mkdir(mode=0o711)
    root.chmod(0o711)
    sockets = root / "sockets"
    sockets.mkdir()
    programs.user.give(sockets)
    try:
        asyncio.run(driver.create(place, spec, programs.user))
        asyncio.run(driver.open(place, spec, programs.user))
        data = place.volume / "data"
        programs.run("initdb", "-D", str(data), "-U", "app", "--auth=trust", "--no-sync")
        with (data / "postgresql.conf").open("a") as file:
            file.write(CONFIGURATION)
        process = programs.start(
            programs.argv("postgres", "-D", str(data), "-k", str(sockets)),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _await_ready(sockets)
            started = time.monotonic()
            programs.run("pgbench", "-i", "-q", "-s", str(SCALE), "-h", str(sockets), "-U", "app", "postgres")
            say(f"volumes: {name}: pgbench -i in {time.monotonic() - started:.1f} s")
            yield Way(name, sockets)
        finally:
            process.send_signal(signal.SIGINT)  # fast shutdown
            process.wait(120)
    finally:
        asyncio.run(driver.destroy(place))


def _await_ready(sockets: Path) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            psycopg.connect(f"host={sockets} user=app dbname=postgres").close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _measure(programs: Programs, ways: list[Way], say: Callable[[str], None]) -> dict[tuple[str, str], list[float]]:
    """Transactions per second by kind and load; the order of kinds turns with every round."""
    results: dict[tuple[str, str], list[float]] = {(way.name, load): [] for way in ways for load in LOADS}
    for number in range(-1, ROUNDS):  # the first one warms up
        for load, options in LOADS.items():
            for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
                where = ("-h", str(way.sockets), "-U", "app", "postgres")
                count = ("-n", "-M", "prepared", "-c", str(CLIENTS), "-j", "2", "-T", str(SECONDS))
                found = re.search(r"tps = ([\d.]+)", programs.run("pgbench", *options, *count, *where))
                assert found is not None
                if number >= 0:
                    results[way.name, load].append(float(found[1]))
        say(f"volumes: round {number + 1} of {ROUNDS}")
    return results


def _table(
    build: EngineBuild, results: dict[tuple[str, str], list[float]], reports: tuple[VolumeDriverReport, ...]
) -> Table:
    names = [name for name, load in results if load == "tpcb"]

    def ratios(name: str, load: str, base: str | None) -> str:
        if base not in names:
            return "-"
        pairs = zip(results[name, load], results[base, load], strict=True)
        return spread([one / plain for one, plain in pairs], 2)

    def cells(name: str, load: str) -> tuple[str, str, str]:
        plain = UNENCRYPTED.get(name)
        return spread(results[name, load]), ratios(name, load, "directory"), ratios(name, load, plain)

    rows = tuple((name, *(cell for load in LOADS for cell in cells(name, load))) for name in names)
    missing = tuple(f"Not on this host: {_name(one)} ({one.reason})." for one in reports if not one.usable)
    kernel = "AES in the kernel's crypto: " + _kernel_aes()
    return Table(
        title=f"pgbench -s {SCALE}, PostgreSQL {build.version}, {CLIENTS} clients, {ROUNDS} rounds of {SECONDS} s",
        columns=(
            "volume",
            "TPC-B tps",
            "of a directory",
            "of the same, not encrypted",
            "select-only tps",
            "of a directory",
            "of the same, not encrypted",
        ),
        rows=rows,
        notes=(kernel, *missing),
    )


def _kernel_aes() -> str:
    """Which implementation of AES-XTS the kernel has taken, after somebody has asked for it."""
    for entry in Path("/proc/crypto").read_text().split("\n\n"):
        fields = dict(re.findall(r"^(\w+)\s*: (.*)$", entry, re.MULTILINE))
        if fields.get("name") == "xts(aes)":
            return f"{fields['driver']}."
    return "not used."
