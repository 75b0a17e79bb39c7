"""An S3 server of its own: moto's, in a virtual environment beside the benches', on a loopback address."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from harness.service import free_port

HOME = Path(os.environ.get("MAINSTAY_BENCH_MOTO", f"/var/tmp/mainstay-bench-moto-{os.geteuid()}"))
INSTALL_TIMEOUT_S = 180
START_TIMEOUT_S = 30.0
OPTIONS = {"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key": "secret", "aws_region": "us-east-1"}


class NotInstallable(Exception):
    """There is no moto here and it cannot be fetched."""


@contextmanager
def s3_server() -> Iterator[str]:
    """Runs the server; gives its endpoint. Raises `NotInstallable`."""
    server = HOME / "bin" / "moto_server"
    if not server.exists():
        _install()
    port = free_port()
    process = subprocess.Popen(
        [str(server), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"]},
    )
    endpoint = f"http://127.0.0.1:{port}"
    try:
        _await(endpoint, process)
        yield endpoint
    finally:
        process.terminate()
        process.wait(10)


def _install() -> None:
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(HOME)], check=True, timeout=INSTALL_TIMEOUT_S)
        command = [str(HOME / "bin" / "python"), "-m", "pip", "install", "-q", "moto[server]"]
        subprocess.run(command, check=True, timeout=INSTALL_TIMEOUT_S, stderr=subprocess.DEVNULL)
    except subprocess.SubprocessError as error:
        raise NotInstallable(f"moto's server cannot be installed into {HOME}: {error}") from error


def _await(endpoint: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            urlopen(endpoint, timeout=5).close()  # noqa: S310 - our own loopback address
            return
        except (URLError, OSError):
            if time.monotonic() > deadline or process.poll() is not None:
                raise
            time.sleep(0.1)
