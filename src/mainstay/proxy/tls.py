"""TLS of a stream of the proxy, on buffers in memory: what is received and sent is the stream's affair."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final

DECRYPT_BYTES: Final = 32 * 1024
"""More than a TLS record has in the clear."""


class Tls:
    """TLS of one stream, on buffers in memory: one read and one write of the socket for each piece, as without it."""

    def __init__(self, context: ssl.SSLContext, alpn: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        bare = getattr(self._object, "_sslobj", self._object)  # the same two, without a function in Python around each
        self._read: Callable[[int], bytes] = bare.read
        self._write: Callable[[bytes], int] = bare.write
        self._put: Callable[[bytes], int] = self._incoming.write
        self._take: Callable[[], bytes] = self._outgoing.read
        self._alpn = alpn
        self.ready = False
        self.held = False
        """Something was received and not decrypted, because reading is paused."""

        self._whole = False
        """Nothing of a record is left from before: what is received next is longer than all that it has in the clear.
        """

        self._room_bytes: int = DECRYPT_BYTES

    def received(self, data: bytes) -> None:
        """Bytes of the socket."""
        if data:
            self._put(data)
        # Not always all the room that a record may need: malloc tidies up its heap each time it has given so much away.
        self._room_bytes = len(data) if self._whole and data else DECRYPT_BYTES

    def shaken(self) -> bool:
        """Goes on with the handshake as far as it can; whether it is complete. Raises `ssl.SSLError`."""
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        if self._alpn and self._object.selected_alpn_protocol() != self._alpn:
            raise ssl.SSLError(f"the client has not asked for the protocol {self._alpn}")
        self.ready = True
        return True

    def decrypted(self) -> bytes | None:
        """What was received in the clear; b"" if there is no more now, None at the end. Raises `ssl.SSLError`."""
        try:
            return self._read(self._room_bytes) or None
        except ssl.SSLWantReadError:
            self._whole = False
            return b""
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return None

    def more(self) -> bool:
        """Whether something received is left. Of a record that was read from, nothing is: there was room for it."""
        self._whole = self._incoming.pending == 0
        return not self._whole

    def encrypted(self, data: bytes) -> bytes:
        """What to send for it."""
        self._write(data)
        return self._take()

    def alert(self) -> bytes:
        """What TLS itself has to say."""
        return self._take() if self._outgoing.pending else b""

    def farewell(self) -> bytes:
        """close_notify."""
        if self.ready:
            with suppress(ssl.SSLError):  # the peer's own has not come yet; nobody waits for it
                self._object.unwrap()
        return self.alert()
