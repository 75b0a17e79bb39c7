"""Secrets at rest: values in the store are sealed with a master key that lives in a file of its own, outside the store.

AES-256-GCM with a random 96-bit nonce (NIST SP 800-38D). The *context* (which record and field the value belongs to)
is authenticated, so a sealed value copied to another record does not open there.
"""

from __future__ import annotations

import base64
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mainstay.host.files import write_atomically
from mainstay.host.randomness import Randomness
from mainstay.model.errors import Permanent

KEY_BYTES = 32
NONCE_BYTES = 12


class Vault:
    """Seals and opens short secrets."""

    def __init__(self, key: bytes, randomness: Randomness) -> None:
        self._cipher = AESGCM(key)
        self._randomness = randomness

    @classmethod
    def open_file(cls, path: Path, randomness: Randomness) -> Vault:
        """Uses the master key in `path` (mode 0600), making it at first start."""
        if not path.exists():
            write_atomically(path, randomness.token_bytes(KEY_BYTES))
        key = path.read_bytes()
        if len(key) != KEY_BYTES:
            raise Permanent(
                f"{path} is not a master key of {KEY_BYTES} bytes", hint="Restore the file from its backup."
            )
        return cls(key, randomness)

    def under(self, key: bytes) -> Vault:
        """A vault with another key of 256 bits, such as a data key, and the same randomness."""
        return Vault(key, self._randomness)

    def seal(self, secret: str, context: str) -> str:
        """The secret, encrypted and authenticated for this context, as printable text."""
        nonce = self._randomness.token_bytes(NONCE_BYTES)
        return base64.b64encode(nonce + self._cipher.encrypt(nonce, secret.encode(), context.encode())).decode()

    def unseal(self, sealed: str, context: str) -> str:
        """The secret again. Raises `Permanent` for another key, another context or an altered value."""
        blob = base64.b64decode(sealed)
        try:
            return self._cipher.decrypt(blob[:NONCE_BYTES], blob[NONCE_BYTES:], context.encode()).decode()
        except InvalidTag as error:
            raise Permanent(
                f"the secret of {context} cannot be opened with this master key",
                hint="Put back the master key file that belongs to this store.",
            ) from error
