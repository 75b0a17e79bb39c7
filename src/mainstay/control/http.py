"""HTTP in front of `Front`: an ASGI application that keeps the raw path, query and headers that signatures cover."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from mainstay.control.front import Front
from mainstay.protocol.aws.limits import BODY_BYTES_MAX
from mainstay.protocol.aws.message import HttpRequest, HttpResponse

HEALTH_PATH = "/_mainstay/health"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Application:
    """The ASGI application. `health` returns what GET /_mainstay/health tells, without a signature."""

    def __init__(self, front: Front, health: Callable[[], dict[str, Any]]) -> None:
        self._front = front
        self._health = health

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["method"] == "GET" and scope["path"] == HEALTH_PATH:
            body = msgspec.json.encode(self._health())
            await _respond(send, HttpResponse(status=200, headers=(("content-type", "application/json"),), body=body))
            return
        body_or_none = await _body(receive)
        if body_or_none is None:
            too_large = HttpResponse(
                status=413, headers=(("connection", "close"),), body=b"The request is too large.\n"
            )
            await _respond(send, too_large)
            return
        request = HttpRequest(
            method=scope["method"],
            path=scope["raw_path"].decode("latin-1"),
            query=scope["query_string"].decode("latin-1"),
            headers=tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]),
            body=body_or_none,
        )
        client = scope.get("client")
        source_ip = "" if client is None else client[0]
        await _respond(send, await self._front.answer(request, source_ip, secure=scope["scheme"] == "https"))


async def _body(receive: Receive) -> bytes | None:
    """The whole body, None if it is larger than we take; what follows is not read then."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > BODY_BYTES_MAX:
            return None
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)


async def _respond(send: Send, response: HttpResponse) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
    headers.append((b"content-length", str(len(response.body)).encode()))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
