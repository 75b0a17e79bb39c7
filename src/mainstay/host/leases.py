"""The lease store: who leads each pair, at which epoch, durably and for one writer at a time.

`Leases` is the interface; on one host it is a directory of files. Every change names the record it was decided on and
fails when that is not the present one any more, so that a decision made on old knowledge can never take effect.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import msgspec

from mainstay.host.files import make_private_directory, write_atomically
from mainstay.model.errors import Permanent, Transient
from mainstay.model.pair import PairRecord


class Leases(Protocol):
    """Pair records by DbiResourceId."""

    def read(self, dbi_resource_id: str) -> PairRecord | None:
        """The present record. Raises `Permanent` if there is one that cannot be read: guessing would lose data."""

    def replace(self, dbi_resource_id: str, expected: PairRecord | None, record: PairRecord) -> None:
        """Makes `record` the present one, on disk when this returns, if `expected` still is.

        Raises `Transient` if it is not, or if it cannot be written: then nothing has changed.
        """

    def forget(self, dbi_resource_id: str) -> None:
        """Removes the record; there need not be one."""


class LocalLeases:
    """`Leases` in one directory. A lock file makes read-compare-write one step for all processes of the host."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        make_private_directory(directory)

    def read(self, dbi_resource_id: str) -> PairRecord | None:
        """See `Leases`."""
        path = self._path(dbi_resource_id)
        try:
            return msgspec.json.decode(path.read_bytes(), type=PairRecord)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, OSError) as error:
            raise Permanent(
                f"{path} cannot be read: {error}", hint="Restore it from a copy; no failover is possible without it."
            ) from error

    def replace(self, dbi_resource_id: str, expected: PairRecord | None, record: PairRecord) -> None:
        """See `Leases`."""
        try:
            with self._locked():
                if self.read(dbi_resource_id) != expected:
                    raise Transient(f"the record of {dbi_resource_id} has changed meanwhile", retry_after_s=0.1)
                write_atomically(self._path(dbi_resource_id), msgspec.json.encode(record))
        except OSError as error:
            raise Transient(f"the record of {dbi_resource_id} cannot be written: {error}") from error

    def forget(self, dbi_resource_id: str) -> None:
        """See `Leases`."""
        with self._locked():
            self._path(dbi_resource_id).unlink(missing_ok=True)

    def _path(self, dbi_resource_id: str) -> Path:
        return self._directory / f"{dbi_resource_id}.json"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
