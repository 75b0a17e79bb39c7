"""An Azure Blob Storage of its own: Microsoft's Azurite, from npm, on a loopback address."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from harness.s3 import NotInstallable
from harness.service import free_port

HOME = Path(os.environ.get("MAINSTAY_BENCH_AZURITE", f"/var/tmp/mainstay-bench-azurite-{os.geteuid()}"))
SERVER = HOME / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
INSTALL_TIMEOUT_S = 180
START_TIMEOUT_S = 60.0
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Known to everybody: those of every Azurite (learn.microsoft.com, "Use the Azurite emulator")."""

VERSION = "2021-12-02"


@contextmanager
def azure_server(container: str) -> Iterator[dict[str, str]]:
    """Runs the server with an empty container; gives the options of the object storage. Raises `NotInstallable`."""
    node = shutil.which("node")
    if node is None:
        raise NotInstallable("there is no node here, which Azurite runs in")
    if not SERVER.exists():
        _install()
    port = free_port()
    process = subprocess.Popen(
        [node, str(SERVER), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence", "--silent",
         "--skipApiVersionCheck", "--disableTelemetry"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=HOME, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
    try:
        _make_container(endpoint, container, process)
        yield {
            "azure_storage_account_name": ACCOUNT,
            "azure_storage_account_key": KEY,
            "azure_storage_endpoint": endpoint,
        }
    finally:
        process.terminate()
        process.wait(10)


def _install() -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise NotInstallable("there is no npm here, which Azurite comes from")
    HOME.mkdir(exist_ok=True)
    command = [npm, "install", "--prefix", str(HOME), "--no-audit", "--no-fund", "--ignore-scripts", "azurite"]
    try:
        subprocess.run(command, check=True, timeout=INSTALL_TIMEOUT_S, capture_output=True)
    except subprocess.SubprocessError as error:
        raise NotInstallable(f"Azurite cannot be installed into {HOME}: {error}") from error


def _make_container(endpoint: str, name: str, process: subprocess.Popen[bytes]) -> None:
    """As soon as the server answers. Source: learn.microsoft.com, "Authorize with Shared Key"."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        date = formatdate(usegmt=True)
        signed = f"PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:{VERSION}\n"
        signed += f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
        digest = hmac.digest(base64.b64decode(KEY), signed.encode(), hashlib.sha256)
        headers = {
            "x-ms-date": date,
            "x-ms-version": VERSION,
            "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}",
        }
        url = f"{endpoint}/{name}?restype=container"
        try:
            urlopen(Request(url, method="PUT", headers=headers), timeout=10).close()  # noqa: S310 - our own address
            return
        except URLError as error:
            if getattr(error, "code", 0) or process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
