"""`Objects` over obstore: S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage.

Imported only when such a storage is used: the library is large. Retries of single requests are obstore's (bounded
below); what still fails is told as ours, without credentials.
"""

from __future__ import annotations

import builtins
import ipaddress
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore import exceptions
from obstore.store import from_url

from mainstay.backups.objects import ObjectNotFound, check_key, check_prefix
from mainstay.model.errors import Permanent, Transient

REQUEST_TIMEOUT_S = 300
CONNECT_TIMEOUT_S = 10
RETRIES_MAX = 3
RETRY_TIMEOUT_S = 300
RETRY_AFTER_S = 5.0
LIST_CHUNK = 1000
MESSAGE_LENGTH_MAX = 300

_REFUSED = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
_WRONG = (
    exceptions.InvalidPathError,
    exceptions.NotSupportedError,
    exceptions.UnknownConfigurationKeyError,
    ValueError,
    TypeError,
)


class RemoteObjects:
    """One bucket or container, or a directory in it. See `Objects`."""

    def __init__(self, url: str, options: Mapping[str, str], *, hasty: bool = False) -> None:
        self._url = url
        plain = any(_is_plain_loopback(value) for name, value in options.items() if "endpoint" in name.lower())
        config: Any = dict(options)
        with _told(url, building=True):
            self._store: Any = from_url(
                url,
                config=config,
                client_options={
                    "allow_http": plain,
                    "timeout": timedelta(seconds=CONNECT_TIMEOUT_S if hasty else REQUEST_TIMEOUT_S),
                    "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
                },
                retry_config={
                    "max_retries": 0 if hasty else RETRIES_MAX,
                    "retry_timeout": timedelta(seconds=RETRY_TIMEOUT_S),
                },
            )

    def put(self, key: str, content: bytes) -> None:
        """See `Objects`."""
        with self._about(key):
            # One request, never a multipart upload: nothing half-uploaded is left behind to be paid for.
            obstore.put(self._store, key, content, use_multipart=False)

    def get(self, key: str) -> bytes:
        """See `Objects`."""
        with self._about(key):
            return bytes(obstore.get(self._store, key).bytes())

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `Objects`."""
        with self._about(key):
            if length <= 0:
                obstore.head(self._store, key)
                return b""
            try:
                return bytes(obstore.get_range(self._store, key, start=start, length=length))
            except exceptions.GenericError:
                # Providers answer 416 for a range that begins at or after the end: that is no failure.
                if obstore.head(self._store, key)["size"] <= start:
                    return b""
                raise

    def size(self, key: str) -> int:
        """See `Objects`."""
        with self._about(key):
            return obstore.head(self._store, key)["size"]

    def list(self, prefix: str) -> list[tuple[str, int]]:
        """See `Objects`."""
        check_prefix(prefix)
        with _told(f"{self._url}/{prefix}"):
            chunks = obstore.list(self._store, prefix.removesuffix("/") or None, chunk_size=LIST_CHUNK)
            return sorted((entry["path"], entry["size"]) for chunk in chunks for entry in chunk)

    def delete(self, keys: Collection[str]) -> None:
        """See `Objects`."""
        for key in keys:
            check_key(key)
        present = list(keys)
        for start in range(0, len(present), LIST_CHUNK):
            with _told(self._url):
                try:
                    obstore.delete(self._store, present[start : start + LIST_CHUNK])
                except (exceptions.NotFoundError, FileNotFoundError):
                    self._delete_each(present[start : start + LIST_CHUNK])

    def _delete_each(self, keys: builtins.list[str]) -> None:
        for key in keys:
            try:
                obstore.delete(self._store, key)
            except (exceptions.NotFoundError, FileNotFoundError):
                continue

    @contextmanager
    def _about(self, key: str) -> Iterator[None]:
        check_key(key)
        with _told(f"{self._url}/{key}"):
            try:
                yield
            except (exceptions.NotFoundError, FileNotFoundError) as error:
                if "NoSuchBucket" in str(error):
                    raise Permanent(
                        f"{self._url} does not exist", hint="Create the bucket, or correct object_storage."
                    ) from error
                raise ObjectNotFound(key) from error


@contextmanager
def _told(place: str, *, building: bool = False) -> Iterator[None]:
    """Maps obstore's errors to ours. Their first line is enough; the rest is its internals."""
    try:
        yield
    except (Permanent, Transient):
        raise
    except exceptions.GenericError as error:
        if not building:
            raise _failed(place, error) from error
        raise _wrong(place, error) from error
    except _REFUSED as error:
        raise Permanent(
            f"the object storage refused {place}: {_short(error)}",
            hint="Check the credentials in the file of object_storage_options and what they may do.",
        ) from error
    except _WRONG as error:
        raise _wrong(place, error) from error
    except (exceptions.BaseError, OSError) as error:
        raise _failed(place, error) from error


def _wrong(place: str, error: Exception) -> Permanent:
    return Permanent(
        f"the object storage cannot be used at {place}: {_short(error)}",
        hint="Check object_storage and the file of object_storage_options.",
    )


def _failed(place: str, error: Exception) -> Transient:
    return Transient(
        f"the object storage failed at {place}: {_short(error)}",
        retry_after_s=RETRY_AFTER_S,
        hint="Check that it can be reached from this host.",
    )


def _short(error: BaseException) -> str:
    return str(error).partition("\n")[0][:MESSAGE_LENGTH_MAX]


def _is_plain_loopback(endpoint: str) -> bool:
    """Whether the endpoint is plain HTTP, which only loopback may be. Raises `Permanent` for any other plain one."""
    parts = urlsplit(endpoint)
    if parts.scheme == "https":
        return False
    host = parts.hostname or ""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if parts.scheme != "http" or not loopback:
        raise Permanent(
            f"the object storage endpoint {endpoint!r} is not https",
            hint="Plain http is for endpoints on loopback addresses only.",
        )
    return True
