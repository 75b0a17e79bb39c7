"""What a confined program can do: what it may read, nothing else. The same program does all of it unconfined."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mainstay.engines.builds.elf import read_elf
from mainstay.host.confined import Confinement, start_confined
from mainstay.host.processes import SAFE_ENVIRONMENT
from mainstay.shim.__main__ import landlock_version
from mainstay.shim.confined import NOT_CONFINED, READS_SINCE

pytestmark = pytest.mark.skipif(landlock_version(ctypes.CDLL(None)) < READS_SINCE, reason="the kernel has no Landlock")

PROGRAM = """
import json, os, socket, sys
place, listener = sys.argv[1:]
done = []
def attempt(name, what):
    try:
        what()
    except (OSError, MemoryError) as error:
        return
    done.append(name)
def connect(family, kind, where):
    with socket.socket(family, kind) as client:
        client.connect(where)
def run(*argv):
    if os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn(argv[0], argv, {}), 0)[1]) != 0:
        raise OSError("it failed")
attempt("read", lambda: open(place + "/given/file").read())
attempt("read elsewhere", lambda: open(place + "/kept/file").read())
attempt("read by a link", lambda: open(place + "/given/link").read())
attempt("list elsewhere", lambda: os.listdir(place + "/kept"))
attempt("write", lambda: open(place + "/given/made", "w"))
attempt("append", lambda: open(place + "/given/file", "a"))
attempt("truncate", lambda: os.truncate(place + "/given/file", 0))
attempt("remove", lambda: os.unlink(place + "/given/extra"))
attempt("rename", lambda: os.rename(place + "/given/more", place + "/given/moved"))
attempt("unix socket", lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, place + "/socket"))
attempt("tcp", lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", int(listener))))
attempt("spawn", lambda: run("/bin/true"))
attempt("fork", lambda: os._exit(0) if os.fork() == 0 else os.wait())
attempt("signal", lambda: os.kill(os.getppid(), 0))
attempt("memory", lambda: bytearray(300 << 20))
print(json.dumps(done))
"""
EVERYTHING = ["read", "read elsewhere", "read by a link", "list elsewhere", "write", "append", "truncate", "remove",
              "rename", "unix socket", "tcp", "spawn", "fork", "signal", "memory"]  # fmt: skip


@pytest.fixture
def place() -> Iterator[Path]:
    """Open to everybody: a confined program of root is nobody."""
    made = Path(tempfile.mkdtemp(dir="/var/tmp"))
    made.chmod(0o777)
    for name in ("given", "kept"):
        (made / name).mkdir()
        (made / name).chmod(0o777)
    for name in ("given/file", "given/extra", "given/more", "kept/file"):
        (made / name).write_text("content")
        (made / name).chmod(0o666)
    (made / "given/link").symlink_to(made / "kept/file")
    yield made
    shutil.rmtree(made)


@pytest.fixture
def listeners(place: Path) -> Iterator[int]:
    with socket.socket(socket.AF_UNIX) as unix, socket.create_server(("127.0.0.1", 0)) as tcp:
        unix.bind(str(place / "socket"))
        (place / "socket").chmod(0o777)
        unix.listen()
        yield tcp.getsockname()[1]


def interpreter() -> tuple[Path, Path, tuple[Path, ...]]:
    """A Python that anybody can start, what loads it, and where it finds what it needs."""
    for name in (sys.executable, "/usr/bin/python3"):
        python = Path(os.path.realpath(name))
        elf = (
            read_elf(python) if python.exists() and all(one.stat().st_mode & 0o001 for one in python.parents) else None
        )
        if elf is not None:
            needs = [python.parent.parent / "lib", *map(Path, ("/usr/lib", "/lib", "/etc/ld.so.cache"))]
            return python, Path(elf.interpreter), tuple(path for path in needs if path.exists())
    pytest.skip("no Python here can be started by everybody")


def confined(*arguments: str, given: Path, memory_bytes: int = 256 << 20) -> tuple[int, str, str]:
    """Status, standard output and standard error."""
    python, loader, needs = interpreter()
    confinement = Confinement(
        readable=(given, *needs), executable=(python, loader), memory_bytes=memory_bytes, cpu_s=60
    )
    with tempfile.TemporaryFile() as said, start_confined(
        [str(python), "-I", "-S", *arguments], confinement, cwd=given, stdin=subprocess.DEVNULL, said=said, env={}
    ) as running:  # fmt: skip
        output, _ = running.communicate(timeout=120)
        said.seek(0)
        return running.returncode, output.decode(), said.read().decode()


def test_it_reads_what_it_is_given_and_does_nothing_else(place: Path, listeners: int) -> None:
    status, output, said = confined("-c", PROGRAM, str(place), str(listeners), given=place / "given")
    assert (status, said) == (0, "")
    assert json.loads(output) == ["read"]
    status, _, said = confined("-c", "import os; os.execv('/bin/sh', ['sh'])", given=place / "given")
    assert status == 1 and "PermissionError" in said
    assert sorted(path.name for path in (place / "given").iterdir()) == ["extra", "file", "link", "more"]
    assert (place / "given/file").read_text() == "content"


def test_the_same_program_does_all_of_it_unconfined(place: Path, listeners: int) -> None:
    python, _, _ = interpreter()
    done = subprocess.run(
        [str(python), "-I", "-S", "-c", PROGRAM, str(place), str(listeners)],
        capture_output=True, check=True, env=dict(SAFE_ENVIRONMENT),
    )  # fmt: skip
    assert json.loads(done.stdout) == EVERYTHING


def test_who_it_is_and_what_it_may_use(place: Path) -> None:
    program = "import os, resource; print(os.geteuid(), resource.getrlimit(resource.RLIMIT_CPU), dict(os.environ))"
    status, output, said = confined("-c", program, given=place / "given")
    assert (status, said) == (0, "")
    assert output.startswith(f"{65534 if os.geteuid() == 0 else os.geteuid()} (60, 60)")
    assert "HOME" not in output and "PG" not in output
    assert resource.getrlimit(resource.RLIMIT_CPU)[0] != 60, "ours are not touched"


def test_it_is_not_started_where_it_cannot_be_confined(place: Path) -> None:
    python, loader, needs = interpreter()
    confinement = Confinement(
        readable=(place / "missing", *needs), executable=(python, loader), memory_bytes=1 << 30, cpu_s=60
    )
    with tempfile.TemporaryFile() as said, start_confined(
        [str(python), "-c", "print('ran')"], confinement, cwd=place, stdin=subprocess.DEVNULL, said=said, env={}
    ) as running:  # fmt: skip
        output, _ = running.communicate(timeout=120)
        said.seek(0)
        assert (running.returncode, output) == (NOT_CONFINED, b"") and b"missing" in said.read()
