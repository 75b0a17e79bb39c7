"""A small HTTP/1.1 load generator: the same signed bytes over and over on connections that are kept alive."""

from __future__ import annotations

import asyncio
import time

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

HEAD_BYTES_MAX = 64 * 1024


def signed(port: int, key: tuple[str, str], body: str, *, service: str = "rds", region: str = "us-east-1") -> bytes:
    """One POST as it goes over the wire; good for five minutes, as any signature."""
    host = f"127.0.0.1:{port}"
    request = AWSRequest(
        "POST",
        f"http://{host}/",
        data=body,
        headers={"Host": host, "Content-Type": "application/x-www-form-urlencoded; charset=utf-8"},
    )
    SigV4Auth(Credentials(*key), service, region).add_auth(request)
    lines = [f"{name}: {value}" for name, value in request.headers.items()]
    head = "\r\n".join(("POST / HTTP/1.1", *lines, f"Content-Length: {len(body)}"))
    return f"{head}\r\n\r\n{body}".encode()


async def answer(port: int, request: bytes) -> bytes:
    """The body of one answer. Raises `RuntimeError` unless it is a 200."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=HEAD_BYTES_MAX)
    try:
        writer.write(request)
        body, _keep = await _read(reader)
        return body
    finally:
        writer.close()


async def requests_per_s(port: int, request: bytes, *, connections: int, duration_s: float) -> float:
    """Answers a second over so many connections; each sends its next request when the last is answered."""
    started = time.monotonic()
    counts = await asyncio.gather(*(_repeat(port, request, started + duration_s) for _ in range(connections)))
    return sum(counts) / (time.monotonic() - started)


async def _repeat(port: int, request: bytes, deadline: float) -> int:
    count = 0
    while time.monotonic() < deadline:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=HEAD_BYTES_MAX)
        kept = True
        while kept and time.monotonic() < deadline:
            writer.write(request)
            _body, kept = await _read(reader)
            count += 1
        writer.close()
    return count


async def _read(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    """One answer's body, and whether the server keeps the connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status, _, rest = head.partition(b"\r\n")
    length = next((line[15:] for line in rest.split(b"\r\n") if line.startswith(b"content-length:")), None)
    if length is None:
        raise RuntimeError("an answer without Content-Length")
    body = await reader.readexactly(int(length))
    if b" 200 " not in status + b" ":
        raise RuntimeError(f"{status.decode()}: {body[:300]!r}")
    return body, status.startswith(b"http/1.1") and b"connection: close" not in head
