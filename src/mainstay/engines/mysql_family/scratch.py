"""A scratch server of a build, started for a moment on a private Unix socket only, to ask it something."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pymysql

from mainstay.engines.mysql_family.sessions import message_of
from mainstay.host.processes import SAFE_ENVIRONMENT, User, engine_user
from mainstay.model.engine import EngineBuild
from mainstay.model.errors import Permanent, Transient

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
DIRECTORY_PREFIX = "mainstay-catalogue-"

Answer = TypeVar("Answer")


class Scratch(msgspec.Struct, frozen=True, kw_only=True):
    """How to make a data directory (a command that ends, and its standard input) and to serve it (a command that goes
    on), each without the place of the data, which is added. `made` is told of the directory in between."""

    make: list[str]
    script: bytes = b""
    serve: list[str]
    made: Callable[[Path], None] = lambda _: None


def ask(build: EngineBuild, user_name: str, scratch: Scratch, question: Callable[[Any], Answer]) -> Answer:
    """What `question` finds out with a cursor of a session that may do anything.

    Raises `Permanent` with the server's words if it does not start, `Transient` if it takes too long.
    """
    user = engine_user(user_name)
    directory = Path(tempfile.mkdtemp(prefix=DIRECTORY_PREFIX))
    data, output, socket_path = directory / "data", directory / "output", directory / "socket"
    try:
        data.mkdir(mode=0o700)
        for path in (directory, data):
            user.give(path)
        done = subprocess.run(
            [*scratch.make, f"--datadir={data}", f"--tmpdir={directory}"],
            input=scratch.script, capture_output=True, check=False, timeout=START_TIMEOUT_S,
            **_as_user(user, build, directory),
        )  # fmt: skip
        if done.returncode != 0:
            raise Permanent(f"{build.name} did not bootstrap: {done.stderr.decode(errors='replace').strip()[-500:]}")
        scratch.made(data)
        with output.open("wb") as log:
            running = subprocess.Popen(
                [*scratch.serve, f"--datadir={data}", f"--tmpdir={directory}", f"--socket={socket_path}"],
                stdout=log, stderr=log, **_as_user(user, build, directory),
            )  # fmt: skip
        try:
            return _question(running, socket_path, output, question)
        finally:
            _stop(running)
    except subprocess.TimeoutExpired as error:
        raise Transient(f"the bootstrap of {build.name} took longer than {START_TIMEOUT_S:.0f} s") from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _as_user(user: User, build: EngineBuild, directory: Path) -> dict[str, Any]:
    credentials: dict[str, Any] = {"env": {**SAFE_ENVIRONMENT, "TZ": "UTC", **build.environment}, "cwd": directory}
    if user.user_id is not None:
        credentials |= {"user": user.user_id, "group": user.group_id, "extra_groups": []}
    return credentials


def _stop(running: subprocess.Popen[bytes]) -> None:
    running.terminate()
    try:
        running.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        running.kill()
        running.wait()


def _connected(path: Path) -> socket.socket:
    """Raises `OSError`. PyMySQL would leave a socket open that finds nobody."""
    peer = socket.socket(socket.AF_UNIX)
    try:
        peer.connect(str(path))
    except OSError:
        peer.close()
        raise
    return peer


def _question(
    running: subprocess.Popen[bytes], socket_path: Path, output: Path, question: Callable[[Any], Answer]
) -> Answer:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        connection = pymysql.Connection(user="root", ssl_disabled=True, autocommit=True, defer_connect=True)
        try:
            connection.connect(_connected(socket_path))
            break
        except (OSError, pymysql.err.MySQLError) as error:
            if running.poll() is not None or time.monotonic() > deadline:
                said = output.read_text(errors="replace").strip()[-500:]
                raise Permanent(f"the engine did not start: {error}: {said}") from error
            time.sleep(0.02)
    with connection, connection.cursor() as cursor:
        try:
            return question(cursor)
        except pymysql.err.MySQLError as error:
            raise Permanent(f"the engine did not answer: {message_of(error)}") from error
