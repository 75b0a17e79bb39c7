"""What the first packets of a connection say. `startup.py` reads them.

Not in the same module, which is compiled, as these cannot be.
"""

from __future__ import annotations

import msgspec


class SSLRequest(msgspec.Struct, frozen=True):
    """The client asks for TLS."""


class GSSENCRequest(msgspec.Struct, frozen=True):
    """The client asks for GSSAPI encryption."""


class CancelRequest(msgspec.Struct, frozen=True):
    """The client asks to cancel what the session with this key is doing. `secret` has 4 to 256 bytes."""

    process_id: int
    secret: bytes


class StartupMessage(msgspec.Struct, frozen=True):
    """The client wants a session. `settings` are run-time parameters, `refused` protocol options we do not know.

    It may be shared by several clients that send the same: nothing may change it.
    """

    minor: int
    user: str
    database: str
    settings: dict[str, str]
    replication: bool
    refused: tuple[str, ...]


FirstPacket = SSLRequest | GSSENCRequest | CancelRequest | StartupMessage
