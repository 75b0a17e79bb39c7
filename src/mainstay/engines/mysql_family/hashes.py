"""What the engines of this family store for a password. Sources: MySQL internals manual, "Authentication method"."""

from __future__ import annotations

import hashlib


def native_password(password: str) -> str:
    """What mysql_native_password stores: "*" and the SHA-1 of the password's SHA-1. It has no salt."""
    first = hashlib.sha1(password.encode()).digest()  # noqa: S324 - the engine's own method
    return "*" + hashlib.sha1(first).hexdigest().upper()  # noqa: S324
