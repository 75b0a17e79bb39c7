"""Which slot of loopback addresses a service of this host has: a file for each claim, in a directory of all users.

Guarantees, tested in tests/unit/host/test_address_slots.py: no two homes that exist have claimed one slot; a claim ends
with its home; a slot in which somebody listens is not given out, whoever that is. Without a directory that can be
trusted only the last of these holds. A claim says which home it is for, which every process list says as well.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

CLAIMS = Path("/var/tmp/mainstay-address-slots")  # noqa: S108 - of all users, kept over reboots; see `_open_directory`
TCP_TABLE = Path("/proc/net/tcp")
LISTENING = "0A"
LOCK_PATIENCE_S = 2.0
CLAIM_BYTES_MAX = 4096
Blocks = Callable[[int], Sequence[IPv4Network]]


class AddressSlots:
    """The claims of this host."""

    def __init__(self, directory: Path = CLAIMS, tcp_table: Path = TCP_TABLE) -> None:
        self._directory = directory
        self._tcp_table = tcp_table

    def claim(self, home: Path, candidates: Iterable[int], blocks: Blocks) -> int | None:
        """The first candidate that is the home's already or that it could claim; None if all are others'.

        `blocks` are the addresses of a slot.
        """
        listeners = self._listeners()

        def heard(number: int) -> bool:
            return any(address in block for block in blocks(number) for address in listeners)

        with self._locked() as directory:
            for number in candidates:
                if directory is None:
                    if not heard(number):
                        return number
                elif self._owner(directory, number) == str(home):
                    with suppress(OSError):
                        os.utime(str(number), dir_fd=directory)  # what cleans /var/tmp goes by age
                    return number
                elif self._free(directory, number) and not heard(number) and self._write(directory, number, home):
                    return number
        return None

    def keep(self, home: Path, number: int) -> bool:
        """Renews the claim of a home that uses the slot already; whether no other home has claimed it."""
        with self._locked() as directory:
            if directory is None or self._owner(directory, number) == str(home):
                return True
            return self._free(directory, number) and self._write(directory, number, home)

    def _free(self, directory: int, number: int) -> bool:
        """Whether nobody claims the slot; a claim whose home is gone is removed."""
        owner = self._owner(directory, number)
        if owner is None:
            return True
        try:
            os.stat(owner)
        except (FileNotFoundError, NotADirectoryError):
            try:
                os.unlink(str(number), dir_fd=directory)
            except OSError:
                return False  # another user's: only it may
            return True
        except (OSError, ValueError):
            pass  # we may not look, so it may well be there
        return False

    def _owner(self, directory: int, number: int) -> str | None:
        """The home that claims the slot, "/" if that cannot be told, None if there is no claim."""
        try:
            descriptor = os.open(str(number), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
        except FileNotFoundError:
            return None
        except OSError:
            return "/"
        try:
            return os.read(descriptor, CLAIM_BYTES_MAX).decode(errors="replace").strip() or "/"
        except OSError:
            return "/"
        finally:
            os.close(descriptor)

    def _write(self, directory: int, number: int, home: Path) -> bool:
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            descriptor = os.open(str(number), flags, 0o644, dir_fd=directory)
        except OSError:
            return False
        try:
            os.fchmod(descriptor, 0o644)
            os.write(descriptor, f"{home}\n".encode())
        finally:
            os.close(descriptor)
        return True

    @contextmanager
    def _locked(self) -> Iterator[int | None]:
        """The directory, locked; None if there is none that can be trusted."""
        directory = self._open_directory()
        try:
            if directory is not None:
                deadline = time.monotonic() + LOCK_PATIENCE_S
                while not _locks(directory) and time.monotonic() < deadline:
                    time.sleep(0.01)  # whoever holds it longer than that must not keep a service from starting
            yield directory
        finally:
            if directory is not None:
                os.close(directory)

    def _open_directory(self) -> int | None:
        """In a sticky directory nobody can remove or replace the claims of another user; others are not trusted."""
        with suppress(OSError):
            os.mkdir(self._directory, 0o1777)  # sticky at once: others look already
            os.chmod(self._directory, 0o1777)  # noqa: S103 - as /tmp: all users' services put their claims here
        try:
            directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            return None
        mode = os.fstat(directory).st_mode
        if not mode & stat.S_ISVTX:
            os.close(directory)
            return None
        return directory

    def _listeners(self) -> set[IPv4Address]:
        """The IPv4 addresses on which anybody listens."""
        try:
            lines = self._tcp_table.read_text().splitlines()[1:]
        except OSError:
            return set()
        found = set()
        for line in lines:
            _, local, _, state, *_ = line.split()
            if state == LISTENING:
                found.add(IPv4Address(int.from_bytes(bytes.fromhex(local.partition(":")[0]), "little")))
        return found


def _locks(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
