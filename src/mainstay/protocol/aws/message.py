"""HTTP requests and answers as plain values: what the codecs take and give. No sockets here."""

from __future__ import annotations

import msgspec


class HttpRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request as it arrived. `path` and `query` are raw (still percent-encoded; `query` without "?").

    `headers` keep order and repetitions; names are lower case.
    """

    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first header of this (lower-case) name, or None."""
        return next((value for key, value in self.headers if key == name), None)


class HttpResponse(msgspec.Struct, frozen=True, kw_only=True):
    """One answer."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
