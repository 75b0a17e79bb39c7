"""Logging in to the engine as one of its users: SCRAM, MD5 or cleartext, whatever it asks for (55.2.1)."""

from __future__ import annotations

import asyncio
import secrets

from mainstay.protocol.postgres import wire
from mainstay.protocol.postgres.scram import SCRAM, ScramClient, ScramError, md5_password
from mainstay.protocol.postgres.wire import WireError
from mainstay.proxy.transport import Transport

LOGIN_BYTES_MAX = 1 << 20
_E, _K, _N, _R, _S, _Z = b"EKNRSZ"


class LoginFailed(Exception):
    """The database did not let us in. `sqlstate` and the message are its own."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class EngineLogin:
    """The beginning of one server connection. What the engine has told of the session is here at the end."""

    def __init__(self, transport: Transport, user: str, password: str) -> None:
        self.parameters: dict[str, str] = {}
        self.process_id = 0
        self.secret = b""
        self._transport = transport
        self._user = user
        self._password = password
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._scram: ScramClient | None = None
        self._tail = b""

    async def run(self, database: str) -> None:
        """Returns when the engine is ready for queries. Raises `LoginFailed`."""
        parameters = {"user": self._user, "database": database}
        self._transport.write(wire.startup({**parameters, "application_name": "RDSProxy", "client_encoding": "UTF8"}))
        await self._done

    def failed(self, error: LoginFailed) -> None:
        """It ends so."""
        if not self._done.done():
            self._done.set_exception(error)

    def data_received(self, data: bytes) -> None:
        """Bytes of the engine."""
        self._tail += data
        try:
            if len(self._tail) > LOGIN_BYTES_MAX:
                raise WireError("the login is too long")
            while len(self._tail) >= wire.HEADER_BYTES:
                end = 1 + int.from_bytes(self._tail[1:5], "big")
                if not wire.HEADER_BYTES <= end <= LOGIN_BYTES_MAX:
                    raise WireError("invalid message length")
                if len(self._tail) < end:
                    return
                message, self._tail = self._tail[:end], self._tail[end:]
                self._message(message[0], message[5:])
        except LoginFailed as error:
            self.failed(error)
            self._transport.abort()
        except (WireError, ScramError, UnicodeDecodeError) as error:
            self.failed(LoginFailed("08P01", str(error)))
            self._transport.abort()

    def _message(self, kind: int, body: bytes) -> None:
        if kind == _R:
            self._authenticate(int.from_bytes(body[:4], "big"), body[4:])
        elif kind == _S:
            name, value, _ = wire.two_strings(body)
            self.parameters[name.decode()] = value.decode()
        elif kind == _K:
            self.process_id, self.secret = int.from_bytes(body[:4], "big"), body[4:]
        elif kind == _E:
            fields = wire.error_fields(body)
            raise LoginFailed(fields.get("C", "08006"), fields.get("M", "the database refused the login"))
        elif kind == _Z:
            if not self._done.done():
                self._done.set_result(None)
        elif kind != _N:
            raise WireError(f"unexpected message {chr(kind)!r} during login")

    def _authenticate(self, code: int, data: bytes) -> None:
        if code == 0:
            return
        if code == 3:
            self._transport.write(wire.message(b"p", wire.cstring(self._password)))
        elif code == 5:
            answer = md5_password(self._user, self._password, data[:4])
            self._transport.write(wire.message(b"p", wire.cstring(answer)))
        elif code == 10 and SCRAM.encode() in data.split(b"\0"):
            self._scram = ScramClient(self._password, secrets.token_urlsafe(18))
            first = self._scram.first()
            body = wire.cstring(SCRAM) + len(first).to_bytes(4, "big") + first
            self._transport.write(wire.message(b"p", body))
        elif code == 11 and self._scram is not None:
            self._transport.write(wire.message(b"p", self._scram.final(data)))
        elif code == 12 and self._scram is not None:
            self._scram.check(data)
        else:
            raise LoginFailed("08P01", f"the database asks for an authentication we do not speak ({code})")
