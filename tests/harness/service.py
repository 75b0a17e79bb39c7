"""A whole Mainstay service: a home and port of its own, real processes, the engine builds of the default home."""

from __future__ import annotations

import json
import os
import random
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import boto3
import psycopg
from botocore.config import Config

from harness.memory import memory_or
from mainstay.compiled import PURE
from mainstay.engines.builds import Builds
from mainstay.host.layout import lock_path
from mainstay.host.locks import holder
from mainstay.host.volumes.mounts import MNT_DETACH, mounts_below, unmount
from mainstay.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parent.parent.parent
MAINSTAY = ("-c", "from mainstay.cli.main import main; main()")
PASSWORD = "correct-horse-7"
TIMEOUT_S = 120.0
PROXY_WORKERS = "TEST_PROXY_WORKERS"
"""In the environment of a test run: so many workers serve the proxies, in every service that does not say."""

HOMES = memory_or(Path("/var/tmp"))
"""Where test services live."""


def eventually(condition: Callable[..., Any], *, timeout_s: float = TIMEOUT_S, interval_s: float = 0.05) -> Any:
    """The first true value of the condition, which is called without arguments (a lambda in a loop may hold what it is
    about as defaults); fails the test when time is up.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {condition}")
        time.sleep(interval_s)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses now, and that the kernel gives to nobody while its owner restarts."""
    first_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(10_000, max(first_given, 11_000))
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def new_home(below: Path = HOMES) -> Path:
    """An empty directory."""
    # Not below pytest's directory: that is closed to the user that engines run as when we are root.
    home = Path(tempfile.mkdtemp(prefix="mainstay-test-", dir=below))
    home.chmod(0o711)
    return home


class Service:
    """`mainstay up` in a home of its own. Use as a context manager; the home is removed at the end."""

    python = sys.executable
    """What the service's processes run in."""

    running: ClassVar[list[Service]] = []
    """All that are between their start and their end."""

    def __init__(self, *, below: Path = HOMES, **settings: str) -> None:
        self.home = new_home(below)
        builds = os.environ.get("MAINSTAY_ENGINES") or str(load_settings({}).builds)
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MAINSTAY_"))
        }
        self.environment |= {
            "MAINSTAY_HOME": str(self.home),
            "MAINSTAY_PORT": str(free_port()),
            "MAINSTAY_ENGINES": builds,
            **({"MAINSTAY_PROXY_WORKERS": os.environ[PROXY_WORKERS]} if PROXY_WORKERS in os.environ else {}),
            **({PURE: os.environ[PURE]} if PURE in os.environ else {}),  # a run of the sources is one in every process
            **{f"MAINSTAY_{name.upper()}": value for name, value in settings.items()},
        }

    def __enter__(self) -> Service:
        try:
            self.cli("up", "--detach")
            lines = [shlex.split(line) for line in self.cli("env").stdout.splitlines()]
            self.variables = dict(word.split("=", 1) for _export, word in lines)
        except BaseException:
            self.__exit__()
            raise
        self.running.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ValueError):  # it may have failed to start
            self.running.remove(self)
        self.cli("down")
        runtime = self.settings.runtime
        for mount in reversed(mounts_below(self.home)):  # what a failing test has left; its data is not worth keeping
            if mount.point != self.home:
                unmount(mount.point, MNT_DETACH)
        shutil.rmtree(self.home)
        shutil.rmtree(runtime, ignore_errors=True)
        for controller in ("memory", "cpu", ""):
            with suppress(OSError):
                (Path("/sys/fs/cgroup") / controller / runtime.name).rmdir()

    @property
    def settings(self) -> Settings:
        """As the service's own processes read them."""
        return load_settings(self.environment)

    @property
    def engine_version(self) -> str:
        """The newest PostgreSQL that is installed for Mainstay itself."""
        own = [build for build in Builds(self.settings).of("postgres") if build.origin == "installed"]
        return max(own, key=lambda build: [int(part) for part in build.version.split(".")]).version

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs the `mainstay` command."""
        done = subprocess.run(
            [self.python, *MAINSTAY, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"mainstay {' '.join(arguments)}: {done.stdout}{done.stderr}{self.log_tail()}")
        return done

    def aws_environment(self) -> dict[str, str]:
        """What a user gets from `eval "$(mainstay env)"`, for the aws CLI and Terraform."""
        return self.environment | self.variables | {"AWS_PAGER": "", "AWS_EC2_METADATA_DISABLED": "true"}

    def client(
        self, name: str, *, region: str | None = None, key: tuple[str, str] | None = None, token: str | None = None
    ) -> Any:
        """A boto3 client, unmodified but for the endpoint; no retries, so that a test sees every answer."""
        key_id, secret = key or (self.variables["AWS_ACCESS_KEY_ID"], self.variables["AWS_SECRET_ACCESS_KEY"])
        return boto3.client(
            name,
            region_name=region or self.variables["AWS_DEFAULT_REGION"],
            endpoint_url=self.variables["AWS_ENDPOINT_URL"],
            aws_access_key_id=key_id,
            aws_secret_access_key=secret,
            aws_session_token=token,
            config=Config(retries={"max_attempts": 0}),
        )

    def create_instance(self, identifier: str = "", **members: Any) -> dict[str, Any]:
        """An available DB instance, as DescribeDBInstances shows it."""
        identifier = identifier or f"t-{secrets.token_hex(4)}"
        rds = self.client("rds")
        wanted = {
            "Engine": "postgres",
            "EngineVersion": self.engine_version,
            "DBInstanceClass": "db.t3.micro",
            "AllocatedStorage": 20,
            "MasterUsername": "app",
            "MasterUserPassword": PASSWORD,
            "BackupRetentionPeriod": 0,  # where backups are not the subject
            **members,
        }
        rds.create_db_instance(DBInstanceIdentifier=identifier, **wanted)
        return self.await_status(identifier, "available")

    def describe(self, identifier: str) -> dict[str, Any]:
        """The instance now."""
        found: dict[str, Any] = self.client("rds").describe_db_instances(DBInstanceIdentifier=identifier)[
            "DBInstances"
        ][0]
        return found

    def await_status(self, identifier: str, status: str) -> dict[str, Any]:
        """The instance once it has this status."""
        found: dict[str, Any] = eventually(
            lambda: (one := self.describe(identifier))["DBInstanceStatus"] == status and one
        )
        return found

    def delete_instance(self, identifier: str) -> None:
        """Deletes the instance and waits until it is gone."""
        rds = self.client("rds")
        rds.delete_db_instance(DBInstanceIdentifier=identifier, SkipFinalSnapshot=True)
        eventually(
            lambda: (
                identifier not in [one["DBInstanceIdentifier"] for one in rds.describe_db_instances()["DBInstances"]]
            )
        )

    def connect(self, instance: dict[str, Any], **options: Any) -> psycopg.Connection[Any]:
        """A session of the master user over verified TLS, autocommit."""
        wanted: dict[str, Any] = {
            "host": instance["Endpoint"]["Address"],
            "port": instance["Endpoint"]["Port"],
            "user": instance["MasterUsername"],
            "password": PASSWORD,
            "dbname": "postgres",
            "sslmode": "verify-full",
            "sslrootcert": self.variables["MAINSTAY_CA_BUNDLE"],
            "connect_timeout": 10,
            **options,
        }
        return psycopg.connect(**wanted, autocommit=True)

    def nodes(self) -> list[dict[str, Any]]:
        """`mainstay nodes --json`."""
        found: list[dict[str, Any]] = json.loads(self.cli("nodes", "--json").stdout)
        return found

    def node(self, identifier: str) -> dict[str, Any]:
        """The node of an instance."""
        return next(node for node in self.nodes() if node["instance"] == identifier)

    def process(self, name: str) -> int:
        """Pid of control, agent, endpoint or supervisor, once it runs."""
        pid: int = eventually(lambda: holder(lock_path(self.settings, name)))
        return pid

    def kill(self, name: str) -> None:
        """kill -9 of one of our processes; returns when its successor runs."""
        pid = self.process(name)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: holder(lock_path(self.settings, name)) not in (None, pid))

    def log_tail(self) -> str:
        """The end of every process's log, for a failing test."""
        logs = sorted((self.home / "logs").glob("*.log"))
        return "".join(f"\n== {log.name}\n{log.read_text()[-2000:]}" for log in logs)

    @contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        """One of our processes frozen for the block (SIGSTOP)."""
        pid = self.process(name)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)
