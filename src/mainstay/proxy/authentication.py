"""How a client proves who it is: SCRAM-SHA-256 (-PLUS on TLS) or md5. Sans-I/O: what to send out, messages in.

Messages are those of RDS Proxy. Sources: PostgreSQL documentation 55.2.1, 55.3; RDS user guide, "RDS Proxy:
connecting". IAM tokens, which control verifies, are `login.py`'s.
"""

from __future__ import annotations

import hmac
import os
from binascii import b2a_base64
from functools import lru_cache
from typing import Final

from mainstay.model.proxy import ClientPasswordAuthType, ProxyUser
from mainstay.protocol.postgres import wire
from mainstay.protocol.postgres.scram import (
    ITERATIONS,
    NONCE_BYTES,
    SCRAM,
    SCRAM_PLUS,
    ScramError,
    ScramServer,
    Verifier,
    md5_password,
    verifier,
)
from mainstay.proxy.drawn import random_bytes

_OFFER: Final = wire.authentication(10, wire.cstring(SCRAM) + b"\0")
_OFFER_ON_TLS: Final = wire.authentication(10, wire.cstring(SCRAM_PLUS) + wire.cstring(SCRAM) + b"\0")
_MOCK_SALT: Final = os.urandom(16)


class Refused(Exception):
    """The client is told why and must go."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class Exchange:
    """One exchange of messages. `proven`: the client knows what it must know."""

    def __init__(self) -> None:
        self.proven = False

    def begin(self) -> bytes:
        """What to send first."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Does what can be done before the answer comes. Called each time the client has been sent something."""

    def answer(self, body: bytes) -> bytes:
        """The body of a password message in; what to send next. Raises `Refused` or `WireError`."""
        raise NotImplementedError


def exchange(name: str, user: ProxyUser | None, end_point: bytes) -> Exchange:
    """The exchange for a user; one that is not known (None) is asked as any other is. `end_point` is the hash of our
    certificate on TLS, b"" without.
    """
    if user is not None and user.client_password_auth_type is ClientPasswordAuthType.POSTGRES_MD5:
        return Md5Exchange(user)
    return ScramExchange(name, user, end_point)


class Md5Exchange(Exchange):
    """AuthenticationMD5Password."""

    def __init__(self, user: ProxyUser) -> None:
        super().__init__()
        self._user = user
        self._salt = random_bytes(4)

    def begin(self) -> bytes:
        """See `Exchange`."""
        return wire.authentication(5, self._salt)

    def answer(self, body: bytes) -> bytes:
        """See `Exchange`."""
        right = md5_password(self._user.username, self._user.password, self._salt).encode()
        if not hmac.compare_digest(body.rstrip(b"\0"), right):
            raise wrong_password(self._user.username)
        self.proven = True
        return b""


class ScramExchange(Exchange):
    """AuthenticationSASL."""

    def __init__(self, name: str, user: ProxyUser | None, end_point: bytes) -> None:
        super().__init__()
        self._name = name
        self._user = user
        self._end_point = end_point
        self._known: Verifier | None = None
        self._nonce = ""
        self._server: ScramServer | None = None

    def begin(self) -> bytes:
        """See `Exchange`."""
        return _OFFER_ON_TLS if self._end_point else _OFFER

    def prepare(self) -> None:
        """See `Exchange`."""
        if self._server is None:
            self._verifier()
        else:
            self._server.prepare()

    def _verifier(self) -> Verifier:
        known = self._known
        if known is None:
            # An unknown user gets a salt that is always the same, and can never prove anything.
            salt = _salt(self._name)
            if self._user is None:
                known = Verifier(salt, ITERATIONS, os.urandom(32), os.urandom(32))
            else:
                known = verifier(self._user.password, salt)
            self._known = known
            self._nonce = b2a_base64(random_bytes(NONCE_BYTES), newline=False).decode()
        return known

    def answer(self, body: bytes) -> bytes:
        """See `Exchange`."""
        try:
            server = self._server
            if server is None:
                return wire.authentication(11, self._first(body))
            final = server.final(body)
        except ScramError as error:
            raise (no_credentials if self._user is None else wrong_password)(self._name) from error
        self.proven = True
        return wire.authentication(12, final)

    def _first(self, body: bytes) -> bytes:
        chosen, position = wire.one_string(body)
        plus = chosen == SCRAM_PLUS.encode() and bool(self._end_point)
        if not plus and chosen != SCRAM.encode():
            raise Refused("28000", "RDS supports only IAM, MD5, or SCRAM authentication.")
        known = self._verifier()
        self._server = server = ScramServer(known, self._nonce, self._end_point, plus=plus)
        return server.first(body[min(len(body), position + 4) :])


def wrong_password(name: str) -> Refused:
    """In the words of RDS Proxy."""
    return Refused("28P01", f"The password that was provided for the role {name} is wrong.")


def no_credentials(name: str) -> Refused:
    """No secret has a password of this user."""
    return Refused(
        "28P01",
        f"This RDS proxy has no credentials for the role {name}. Check the credentials for this role and try again.",
    )


def wrong_token(name: str) -> Refused:
    """Control has not taken the token."""
    return Refused(
        "28P01",
        f"The IAM authentication failed for the role {name}. Check the IAM token for this role and try again.",
    )


@lru_cache(maxsize=256)
def _salt(name: str) -> bytes:
    return hmac.digest(_MOCK_SALT, name.encode(), "sha256")[:16]
