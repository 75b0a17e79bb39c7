"""Object storage as this package sees it: six operations on whole objects, and an in-memory twin for tests.

Every implementation passes one conformance suite (tests/unit/backups/test_objects.py). Keys are paths of plain
characters, so that they are the same in a directory, in S3, in GCS and in Azure.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import msgspec

from mainstay.backups.credentials import require_credentials
from mainstay.model.errors import Permanent
from mainstay.settings import Settings

KEY_LENGTH_MAX = 512
NAME_LENGTH_MAX = 200
DEFAULT_DIRECTORY = "objects"
OPTIONS_BYTES_MAX = 64 << 10
PROBED = "mainstay-probe"
REMOTE_SCHEMES = ("s3", "gs", "az")

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:@+=-]*", re.ASCII)


class ObjectNotFound(Permanent):
    """There is no object of this key."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the object {key} is not in the object storage")
        self.key = key


class Objects(Protocol):
    """Whole objects by key. Synchronous and safe to use from several threads. No key may lie below another one.

    Every operation raises `Transient` for what time may heal (network, full disk) and `Permanent` for what it cannot
    (refused credentials, a bad key).
    """

    def put(self, key: str, content: bytes) -> None:
        """Stores the object as a whole, replacing an older one: durable and visible when this returns."""

    def get(self, key: str) -> bytes:
        """The whole object. Raises `ObjectNotFound`."""

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """So many bytes from `start`; fewer, or none, where the object ends before. Raises `ObjectNotFound`."""

    def size(self, key: str) -> int:
        """Length in bytes. Raises `ObjectNotFound`."""

    def list(self, prefix: str) -> list[tuple[str, int]]:
        """(key, size in bytes) of every object below the directory `prefix` ("" or "a/b/"), sorted by key."""

    def delete(self, keys: Collection[str]) -> None:
        """Removes the objects, durably; those that are not there are no error."""


def check_key(key: str) -> None:
    """Raises `Permanent` unless the key is safe as a path: names of plain characters, none beginning with a dot."""
    names = key.split("/")
    if len(key) > KEY_LENGTH_MAX or not all(len(name) <= NAME_LENGTH_MAX and _NAME.fullmatch(name) for name in names):
        raise Permanent(
            f"{key[:KEY_LENGTH_MAX]!r} cannot be the key of an object",
            hint="Names of letters, digits and ._:@+=- that begin with a letter, digit or _, joined by single slashes, "
            f"at most {KEY_LENGTH_MAX} characters.",
        )


def check_prefix(prefix: str) -> None:
    """Raises `Permanent` unless the prefix is empty or a directory of keys that ends with a slash."""
    if prefix:
        check_key(prefix.removesuffix("/"))
        if not prefix.endswith("/"):
            raise Permanent(f"{prefix!r} does not end with a slash, so it is no directory of objects")


class MemoryObjects:
    """The twin for tests: nothing outlives it."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put(self, key: str, content: bytes) -> None:
        """See `Objects`."""
        check_key(key)
        with self._lock:
            self._objects[key] = bytes(content)

    def get(self, key: str) -> bytes:
        """See `Objects`."""
        check_key(key)
        with self._lock:
            if key not in self._objects:
                raise ObjectNotFound(key)
            return self._objects[key]

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `Objects`."""
        return self.get(key)[start : start + length]

    def size(self, key: str) -> int:
        """See `Objects`."""
        return len(self.get(key))

    def list(self, prefix: str) -> list[tuple[str, int]]:
        """See `Objects`."""
        check_prefix(prefix)
        with self._lock:
            return sorted((key, len(content)) for key, content in self._objects.items() if key.startswith(prefix))

    def delete(self, keys: Collection[str]) -> None:
        """See `Objects`."""
        for key in keys:
            check_key(key)
        with self._lock:
            for key in keys:
                self._objects.pop(key, None)


def object_storage(settings: Settings) -> tuple[str, dict[str, str]]:
    """URL and options of the object storage that the settings name. Raises `Permanent` for a bad file of options."""
    if not settings.object_storage:
        return str(settings.home / DEFAULT_DIRECTORY), {}
    path = settings.object_storage_options
    return settings.object_storage, load_options(path) if path else {}


def probe_object_storage(settings: Settings) -> None:
    """Asks the storage of the settings for an object that is not there. Raises `Permanent` if it refuses us or is badly
    set up, `Transient` if it cannot be reached; a directory is not looked at."""
    url, options = object_storage(settings)
    if urlsplit(url).scheme in REMOTE_SCHEMES:
        with suppress(ObjectNotFound):
            open_objects(url, options, hasty=True).get(PROBED)


def load_options(path: Path) -> dict[str, str]:
    """The options in a TOML file of `name = "text"`. Raises `Permanent`, also if others may read the file."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise Permanent(
                    f"{path} holds credentials and can be read by other users", hint=f"Do: chmod 600 {path}"
                )
            return msgspec.toml.decode(file.read(OPTIONS_BYTES_MAX), type=dict[str, str])
    except OSError as error:
        raise Permanent(f"{path} cannot be read: {error.strerror}", hint="Correct object_storage_options.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # Not the decoder's own words: they may quote a credential.
        raise Permanent(
            f"{path} is no TOML file of texts", hint='Write lines such as aws_region = "eu-west-1".'
        ) from error


def open_objects(url: str, options: Mapping[str, str], *, hasty: bool = False) -> Objects:
    """The object storage at `url`: an absolute path (or file://…), s3://bucket/prefix, gs://… or az://….

    `options` are credentials and the like, named as object_store names them (docs/settings.md). `hasty`: a person
    waits, so nothing is tried twice. Raises `Permanent` for a URL that is none of these, for options that it does not
    know, and for a remote storage without credentials.
    """
    from mainstay.backups.directory_objects import DirectoryObjects

    parts = urlsplit(url)
    if parts.scheme in REMOTE_SCHEMES and parts.netloc:
        require_credentials(parts.scheme, options)
        # Loaded only here: the library costs tens of megabytes that a service with a plain directory need not pay.
        from mainstay.backups.remote_objects import RemoteObjects

        return RemoteObjects(url, options, hasty=hasty)
    if parts.scheme in ("", "file") and not parts.netloc and parts.path.startswith("/"):
        return DirectoryObjects(Path(parts.path))
    raise Permanent(
        f"{url!r} is no object storage",
        hint="Give an absolute directory or a URL like s3://bucket/prefix, gs://bucket/prefix, az://container/prefix.",
    )
