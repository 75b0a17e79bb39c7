"""A service whose host can lose its power: what was not written through to the disk is gone.

The home is an ext4 file system in a file. The moment all writers are frozen, that file holds what a disk would hold:
what was synchronised, and not what only the page cache knows. A copy of it in the place of the original is the host
after the power has come back. It is a disk without a volatile cache: a missing flush of one cannot be seen.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psutil
import psycopg
import pytest

from harness.pairs import MultiAZ
from harness.sabotage import SabotagedService
from harness.service import Service, eventually
from harness.writers import Writers, judge

AnyPair = TypeVar("AnyPair", bound=MultiAZ)

SIZE = "2G"
OPTIONS = "loop,commit=300,noatime"
"""No journal commit of the file system's own before ours: it would do the engine's work."""


class CannotMount(Exception):
    """This machine does not let us mount a file."""


class PowerlessService(SabotagedService):
    """A service, also a sabotaged one, in a file system of its own; raises `CannotMount` at the start."""

    def __init__(self, sabotage: str = "") -> None:
        if sabotage:
            super().__init__(sabotage)
        else:
            Service.__init__(self)
        self._images = Path(f"{self.home}.images")
        self._image = self._images / "0"

    def __enter__(self) -> Service:
        sabotaged = self.home / "sabotaged"
        self._images.mkdir()
        try:
            subprocess.run(["truncate", f"--size={SIZE}", str(self._image)], check=True, timeout=20)
            _run("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(self._image))
            if sabotaged.exists():
                sabotaged = sabotaged.rename(self._images / "sabotaged")
                self.python = str(sabotaged / "bin" / "python")
            self._mount()
        except (subprocess.SubprocessError, OSError) as error:
            shutil.rmtree(self._images)
            self.home.rmdir()
            raise CannotMount(str(error)) from error
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        self.cli("down")
        self._unmount()
        self.home.mkdir(exist_ok=True)
        super().__exit__()
        shutil.rmtree(self._images)

    def cut_power(self, written_back: Sequence[Path] = ()) -> None:
        """Everything stops at once; when this returns the disk is as it was then, and nothing runs.

        Of the files `written_back` the kernel happens to have written all just before, as it does now and then.
        """
        pids = self._freeze()
        for path in written_back:
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        copy = self._images / str(int(self._image.name) + 1)
        _run("cp", "--sparse=always", str(self._image), str(copy))
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: not any(_runs(pid) for pid in pids))
        self._unmount()
        self._image.unlink()
        self._image = copy
        self._mount()
        shutil.rmtree(self.settings.runtime)  # it is in memory

    def _freeze(self) -> list[int]:
        """SIGSTOP of all that belongs to the service, engines first; their pids."""
        frozen: list[int] = []
        while fresh := [pid for pid in self._processes() if pid not in frozen]:
            for pid in fresh:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            frozen += fresh
        return frozen

    def _processes(self) -> list[int]:
        engines, others = [], []
        nodes = f"{self.home}/agent/nodes/"
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if f"{process.cwd()}/".startswith(nodes):
                    engines.append(process.pid)
                    parent = process.parent()
                    if parent is not None and "shim" in " ".join(parent.cmdline()) and parent.pid not in others:
                        others.append(parent.pid)
                elif process.environ().get("MAINSTAY_HOME") == str(self.home):
                    others.append(process.pid)
        return engines + others

    def _mount(self) -> None:
        _run("mount", "-o", OPTIONS, str(self._image), str(self.home))
        self.home.chmod(0o711)

    def _unmount(self) -> None:
        eventually(lambda: subprocess.run(["umount", str(self.home)], capture_output=True, timeout=60).returncode == 0)


@contextmanager
def powerless_service(sabotage: str = "") -> Iterator[PowerlessService]:
    """A service on a host that can lose its power; skips the test where nothing can be mounted."""
    service = PowerlessService(sabotage)
    try:
        service.__enter__()
    except CannotMount as error:
        pytest.skip(f"this machine does not let us mount: {error}")
    try:
        yield service
    finally:
        service.__exit__()


@contextmanager
def powerless(make: Callable[[Service], AnyPair], sabotage: str = "") -> Iterator[tuple[PowerlessService, AnyPair]]:
    """A Multi-AZ instance, in sync and with the writers' table, on such a host."""
    with powerless_service(sabotage) as service:
        pair = make(service)
        pair.await_in_sync()
        pair.make_table()
        yield service, pair


def cut_under_load(
    service: PowerlessService,
    pair: MultiAZ,
    *,
    write_s: float = 0.0,
    written_back: Callable[[], Sequence[Path]] = tuple,
) -> Writers:
    """A power cut while clients write, for so long at least; they have ended when this returns, and nothing runs."""
    pair.await_in_sync()
    with pair.writers() as writers:
        time.sleep(write_s)
        eventually(lambda: writers.acknowledged() > 500)
        service.cut_power(written_back())
        writers.stop()
    return writers


def loses_commits(service: PowerlessService, pair: MultiAZ) -> bool:
    """Whether a power cut under load takes acknowledged commits, or the whole instance, with it."""
    writers = cut_under_load(service, pair)
    service.cli("up", "--detach")
    try:
        rows = pair.rows(timeout_s=30)
    except (AssertionError, psycopg.Error) as error:  # it does not start, or the table is gone
        print(f"after the power cut nothing is left: {error}")
        return True
    verdict = judge(writers.operations, writers.read, rows)
    print(f"after the power cut: {verdict}")
    return bool(verdict.lost)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, timeout=120)
