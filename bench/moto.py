"""The peer of `describe`: moto's server in a virtual environment of its own, with as many DB instances."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3

from bench.population import identifier
from harness.service import free_port

HOME = Path(os.environ.get("MAINSTAY_BENCH_MOTO", f"/var/tmp/mainstay-bench-moto-{os.geteuid()}"))
INSTALL_TIMEOUT_S = 180
START_TIMEOUT_S = 30.0
KEY = ("AKIAIOSFODNN7EXAMPLE", "bench")


def install(say: Callable[[str], None]) -> str:
    """Makes the environment if it is missing; returns moto's version. Raises `CalledProcessError` without network."""
    python = HOME / "bin" / "python"
    if not (HOME / "bin" / "moto_server").exists():
        say(f"describe: installing moto[server] into {HOME}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(HOME)], check=True, timeout=INSTALL_TIMEOUT_S)
        command = [str(python), "-m", "pip", "install", "-q", "moto[server]"]
        subprocess.run(command, check=True, timeout=INSTALL_TIMEOUT_S, stderr=subprocess.DEVNULL)
    script = "from importlib.metadata import version; print(version('moto'))"
    return subprocess.run([str(python), "-c", script], check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def moto_with(instances: int) -> Iterator[int]:
    """Runs moto's server with so many instances, made through its API; gives its port."""
    port = free_port()
    environment = {"PATH": os.environ["PATH"], "MOTO_IAM_ENABLED": "false"}
    command = [str(HOME / "bin" / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        client = boto3.client(
            "rds",
            region_name="us-east-1",
            endpoint_url=f"http://127.0.0.1:{port}",
            aws_access_key_id=KEY[0],
            aws_secret_access_key=KEY[1],
        )
        _await(client, process)
        for number in range(instances):
            client.create_db_instance(
                DBInstanceIdentifier=identifier(number),
                Engine="postgres",
                DBInstanceClass="db.t3.micro",
                AllocatedStorage=20,
                MasterUsername="app",
                MasterUserPassword="correct-horse-7",
                Tags=[{"Key": "team", "Value": "bench"}],
            )
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _await(client: object, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            client.describe_db_instances()  # type: ignore[attr-defined]
            return
        except Exception:
            if time.monotonic() > deadline or process.poll() is not None:
                raise
            time.sleep(0.2)
